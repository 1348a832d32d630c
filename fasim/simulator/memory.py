"""What reaches L2, and what of it reaches DRAM: a model of the cache by working sets.

No line is simulated. Tiles are re-read at known distances; whether they are still in L2
follows from how much was touched in between. Labelled as modelled wherever it is printed.

All of L2 counts, whatever its partitions. A partition keeps copies of the other's lines only as
long as it has room: beyond half of the capacity a set loses bandwidth and near-hit latency, and
still hits, in the far partition. An A100 reads a set of 30 MB at 4.0 TB/s and at one latency of 400
cycles (te42kyfo/gpu-benches); if half of L2 held it, 58 % would miss, and DRAM allow 3.1 TB/s.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING

from fasim.readings.traffic import ACCESSES, Access, KernelTraffic, Level
from fasim.schedules.language import Tensor
from fasim.schedules.record import Op, Record

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
    touched = sum(_bytes_between(record, tensor, slots) for tensor in kernel.tensors)
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
        # What comes again, a sweep at a time, misses as the set between two sweeps overflows.
        sweeps = _sweeps(record, tensor, access.read_bytes, slots)
        fresh = 1 if compulsory.read_bytes else 0  # what it wrote itself comes again each sweep
        read += min(distinct, access.read_bytes) * (sweeps - fresh) * miss_share(touched, capacity)
        # Dirty lines are written back as what the kernel writes overflows the cache; those it
        # writes again, only if they were displaced before.
        last = min(compulsory.write_bytes, access.write_bytes)
        written = last * miss_share(outputs, capacity)
        written += (access.write_bytes - last) * miss_share(touched, capacity)
        if access.reduce_bytes:
            # L2 adds: a line that is not there is fetched, and written back when displaced.
            sweeps = _sweeps(record, tensor, access.reduce_bytes, slots)
            displaced = miss_share(touched, capacity)
            fetched = 1 - resident.of(name) + (sweeps - 1) * displaced
            read += compulsory.reduce_bytes * fetched
            written += compulsory.reduce_bytes * sweeps * displaced
        dram[name] = Access(round(read), round(written), 0)
    return MemoryTraffic(l2, dram, round(resident_bytes))


def _sector_factor(record: Record, tensor: Tensor, gpu: Gpu) -> float:
    """Sectors over bytes: a row that ends inside a sector still moves all of it."""
    inner = tensor.axes[-1]
    tile = record.kernel.lengths[inner]
    for op in record.once():
        if op.name == tensor.name and op.kind in ACCESSES and inner in op.rows:
            tile = min(tile, op.rows[inner].tile)
    row_bytes = tile * tensor.element_bytes
    sector = gpu.l2.sector_bytes
    return -(-row_bytes // sector) * sector / row_bytes


def _accesses(record: Record, name: str) -> list[Op]:
    return [op for op in record.once() if op.name == name and op.kind in ACCESSES]


def _block_bytes(record: Record, tensor: Tensor) -> float:
    """Distinct bytes of a tensor that one block touches."""
    kernel = record.kernel
    share = float(tensor.bytes(kernel.lengths))
    for axis in kernel.grid:
        if axis in tensor.axes or (axis == "head" and "kv_head" in tensor.axes):
            # Through its head a block keeps to one of kv_heads, or of query heads by group.
            named = "head" if "group" in tensor.axes else "kv_head"
            count = kernel.lengths[named] if axis not in tensor.axes else kernel.tile_count(axis)
            if _bound_by_grid(record, tensor, axis):
                share /= count
    return share


def _bound_by_grid(record: Record, tensor: Tensor, axis: str) -> bool:
    """Whether a block keeps to its own tile of an axis, rather than loop over all of it."""
    if axis in ("batch", "head", "kv_head"):
        return True
    return any(
        axis in op.rows and op.rows[axis].owner == "own" for op in _accesses(record, tensor.name)
    )


def _bytes_between(record: Record, tensor: Tensor, slots: int) -> float:
    """Bytes of a tensor that the blocks running at one time touch."""
    kernel = record.kernel
    distinct = tensor.bytes(kernel.lengths)
    one = _block_bytes(record, tensor)
    groups = max(1.0, distinct / one)  # sets of blocks that touch the same part
    sharing = kernel.blocks / groups
    return one * min(groups, max(1.0, slots / sharing))


def _sweeps(record: Record, tensor: Tensor, read_bytes: int, slots: int) -> float:
    """How often the blocks that share a part of a tensor pass over it, one wave after another.

    Blocks that run at the same time read the same tiles in step, and are one sweep.
    """
    if not read_bytes:
        return 0.0
    kernel = record.kernel
    distinct = tensor.bytes(kernel.lengths)
    one = _block_bytes(record, tensor)
    sharing = kernel.blocks / max(1.0, distinct / one)
    waves = max(1.0, sharing / slots)
    executions = read_bytes / distinct / sharing  # passes of one block over its part
    return max(1.0, waves * max(1.0, executions))


def residency_after(
    record: Record, exact: KernelTraffic, gpu: Gpu, slots: int, before: Residency
) -> Residency:
    """What lies in L2 once a kernel has run: what it touched last, as far as it fits.

    Blocks that all run at one time write their results after all else has been read.
    """
    touched = sum(access.total_bytes for access in exact.compulsory.values())
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
