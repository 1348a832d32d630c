"""What reaches L2, and what of it reaches DRAM: a model of the cache by working sets.

No line is simulated. Tiles are re-read at known distances; whether they are still in L2
follows from how much was touched in between. Labelled as modelled wherever it is printed.

Where L2 is partitioned, a line read from another partition than its home is copied there, and the
copy takes up room. Of a set that is read once a sweep half the lines have one: on an A100 a set of
30 MB fills 45 of 42 MB and misses a little. Measured, it is read at 4.0 TB/s, and small sets at 5.4
(te42kyfo/gpu-benches). If every line were copied, DRAM would allow 3.1 TB/s.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING

from fasim.readings.traffic import ACCESSES, Access, KernelTraffic, Level
from fasim.schedules.language import Tensor
from fasim.schedules.record import Record
from fasim.simulator.sharing import Sharing, sharing

if TYPE_CHECKING:
    from fasim.hardware import Gpu


def miss_share(working_set_bytes: float, capacity_bytes: float) -> float:
    """Share of accesses that miss when a set is swept again and again.

    With random replacement a line survives a sweep of misses m·N with exp(−m·N/C), so
    1 − m = exp(−m·N/C): no misses while the set fits, a rising share beyond, and no cliff.
    """
    if working_set_bytes <= capacity_bytes:
        return 0.0
    ratio = working_set_bytes / capacity_bytes
    low, high = 1e-9, 1.0
    for _ in range(50):  # the fixed point is where the two sides cross; bisect
        middle = (low + high) / 2
        if 1 - middle > exp(-middle * ratio):
            low = middle
        else:
            high = middle
    return high


def copies(readers: float, gpu: Gpu) -> float:
    """Places of a line that so many SMs read: its home, and each other partition one is in."""
    others = gpu.l2.partitions - 1
    unread: float = (1 - 1 / gpu.l2.partitions) ** readers  # none of them is in a given partition
    return 1 + others * (1 - unread)


@dataclass(frozen=True)
class Residency:
    """Which share of each tensor lies in L2 as a kernel starts."""

    share: dict[str, float]

    def of(self, tensor: str) -> float:
        return self.share.get(tensor, 0.0)


@dataclass(frozen=True)
class MemoryTraffic:
    """Modelled bytes of one kernel below the global level.

    Attributes:
        resident_bytes: of what it must read, bytes that lay in L2 as it started.
    """

    l2: Level
    dram: Level
    resident_bytes: int


def memory_traffic(
    record: Record, exact: KernelTraffic, gpu: Gpu, slots: int, resident: Residency
) -> MemoryTraffic:
    """L2 and DRAM bytes of a kernel whose blocks run `slots` at a time."""
    kernel = record.kernel
    capacity = gpu.l2.capacity_bytes
    l2: Level = {}
    dram: Level = {}
    resident_bytes = 0.0
    shared = {tensor.name: sharing(record, tensor) for tensor in kernel.tensors}

    def misses(blocks: float) -> float:
        """Share that misses of what comes again after so many blocks."""
        held = (
            each.touched_bytes(blocks) * copies(min(blocks, each.blocks), gpu)
            for each in shared.values()
        )
        return miss_share(sum(held), capacity)

    displaced = misses(slots)
    outputs = sum(access.write_bytes for access in exact.compulsory.values())
    for name, access in exact.global_.items():
        tensor = kernel.tensor(name)
        sectors = _sector_factor(record, tensor, gpu)
        multicast = kernel.mapping.multicast_count(name)
        l2[name] = Access(
            round(access.read_bytes * sectors / multicast),
            round(access.write_bytes * sectors),
            round(access.reduce_bytes * sectors),
        )
        distinct = tensor.bytes(kernel.lengths)
        compulsory = exact.compulsory.get(name, Access())
        read = float(compulsory.read_bytes)
        resident_bytes += read * resident.of(name)
        read *= 1 - resident.of(name)
        far_misses = misses(max(slots, shared[name].distance))
        sweeps, again = _comes_again(
            shared[name], access.read_bytes / distinct, slots, displaced, far_misses
        )
        if not compulsory.read_bytes and sweeps:  # what it wrote itself comes again each sweep
            again += displaced
        read += min(distinct, access.read_bytes) * again
        # Dirty lines are written back as what the kernel writes overflows the cache; those it
        # writes again, only if they were displaced before.
        last = min(compulsory.write_bytes, access.write_bytes)
        written = last * miss_share(outputs, capacity)
        written += (access.write_bytes - last) * displaced
        if access.reduce_bytes:
            # L2 adds: a line that is not there is fetched, and written back when displaced.
            sweeps, again = _comes_again(
                shared[name], access.reduce_bytes / distinct, slots, displaced, far_misses
            )
            read += compulsory.reduce_bytes * (1 - resident.of(name) + again)
            written += compulsory.reduce_bytes * (again + displaced)
        dram[name] = Access(round(read), round(written), 0)
    return MemoryTraffic(l2, dram, round(resident_bytes))


def _sector_factor(record: Record, tensor: Tensor, gpu: Gpu) -> float:
    """Sectors over bytes: a row that ends inside a sector still moves all of it."""
    inner = tensor.innermost or tensor.axes[-1]
    tile = record.kernel.lengths[inner]
    for op in record.once():
        if op.name == tensor.name and op.kind in ACCESSES and inner in op.rows:
            tile = min(tile, op.rows[inner].tile)
    row_bytes = tile * tensor.element_bytes
    sector = gpu.l2.sector_bytes
    return -(-row_bytes // sector) * sector / row_bytes


def _comes_again(
    shared: Sharing, accessed_bytes: float, slots: int, near_misses: float, far_misses: float
) -> tuple[float, float]:
    """How often a tensor is swept, and how often it has to be fetched for that again.

    Blocks that run at the same time read the same tiles in step, and are one sweep. Those that
    share a part but are issued far apart are a sweep each.

    Args:
        accessed_bytes: of the tensor, by all blocks, over its own size.
        near_misses, far_misses: share that misses when the next wave, and when the next of those
            far apart, comes by.
    """
    if not accessed_bytes:
        return 0.0, 0.0
    passes = max(1.0, accessed_bytes / shared.blocks)  # of one block over its part
    near = max(1.0, shared.near / slots) * passes
    far = shared.far / shared.together(slots)
    return near * far, far * (near - 1) * near_misses + (far - 1) * far_misses


def residency_after(
    record: Record, exact: KernelTraffic, gpu: Gpu, slots: int, before: Residency
) -> Residency:
    """What lies in L2 once a kernel has run: what it touched last, as far as it fits.

    Blocks that all run at one time write their results after all else has been read.
    """
    touched = sum(
        access.read_bytes * copies(1, gpu) + access.write_bytes + access.reduce_bytes
        for access in exact.compulsory.values()
    )
    survives = 1 - miss_share(touched, gpu.l2.capacity_bytes)
    share = {name: part * survives for name, part in before.share.items()}
    share |= dict.fromkeys(exact.compulsory, survives)
    if record.kernel.blocks <= slots:
        inside = {op.name for op in record.once() if op.path}
        last = {name: each for name, each in exact.compulsory.items() if name not in inside}
        written = {name: each.write_bytes for name, each in last.items() if each.write_bytes}
        stay = 1 - miss_share(sum(written.values()), gpu.l2.capacity_bytes)
        share |= dict.fromkeys(written, stay)
    return Residency(share)
