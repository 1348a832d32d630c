"""One iteration of a compiled main loop as the stream that one warp issues.

Each instruction goes to the pipe that executes it, at the GPU's rates and latencies; what it waits
for is in the machine code (`compiled_needs.py`). Neighbours alike become one item.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING

from fasim.hardware.gpu import LDMATRIX_BYTES, WARP
from fasim.problem import DTYPE_BYTES, TENSOR_DTYPE
from fasim.schedules.compiled_loop import CompiledLoop, Instruction
from fasim.simulator.compiled_needs import COPY, PRODUCT, WAITS, Need, needs_of
from fasim.simulator.lowering.exchange import SHUFFLE_BYTES
from fasim.simulator.lowering.instructions import COPY_BYTES, WGMMA_ROWS
from fasim.simulator.lowering.products import WGMMA_WAIT_CYCLES
from fasim.simulator.stream import Item, Stream, latency_left

if TYPE_CHECKING:
    from fasim.hardware import Gpu

_PIPES = {
    # IMAD runs on the FP32 lanes' multipliers; compilers also move registers and add by it.
    **dict.fromkeys(("FADD", "FFMA", "FMUL", "IMAD"), "fp32"),
    **dict.fromkeys(("F2FP", "FMNMX", "FSEL", "FSETP", "IADD3", "ISETP", "LEA", "LOP3"), "alu"),
    **dict.fromkeys(("MOV", "PLOP3", "PRMT", "SEL", "SHF", "VIADD"), "alu"),
    "MUFU": "sfu",
}
# These take an issue slot, and no pipe kept here; so do the uniform datapath (U…) and what is
# never executed.
_SLOT = frozenset({"BRA", "CALL", "FENCE", "LDGDEPBAR", "MEMBAR", "NOP", "WARPGROUP"})
_TENSOR_MEMORY = "UTC"  # tcgen05 begins like the uniform datapath, and is not known here
_MATRIX_BYTES = 128  # of one 8 × 8 matrix of two bytes: LDSM reads one, two or four
_WGMMA_SHAPE = re.compile(r"\.64x(\d+)x(\d+)\.")
# Neighbours in one item, at most: it issues when the last of them may.
MOST_GROUPED = 4


def compiled_stream(
    loop: CompiledLoop, gpu: Gpu, loaded_bytes: int, late_cycles: float = 0.0
) -> Stream:
    """The stream of a loop, for the warps of one block on one scheduler.

    Args:
        loaded_bytes: what an iteration brings the whole block, by its program.
        late_cycles: by how much a copy takes longer than one that hits L2.

    Raises:
        ValueError: an instruction that is not known here.
    """
    reader = _Reader(loop, gpu, loaded_bytes, late_cycles)
    needs = needs_of(loop.instructions)
    items = [
        replace(reader.item(each), needs=needed)
        for each, needed in zip(loop.instructions, needs, strict=True)
    ]
    return Stream(
        tuple(_grouped(items, reader.arriving(items))),
        max(1, ceil(loop.warps / gpu.sm.schedulers)),
    )


class _Reader:
    """Says what one instruction of a loop occupies, and for how long."""

    def __init__(self, loop: CompiledLoop, gpu: Gpu, loaded_bytes: int, late_cycles: float) -> None:
        self.loop, self.gpu, self.late_cycles = loop, gpu, late_cycles
        copies = [each for each in loop.instructions if each.name == COPY]
        whole = [each for each in copies if not each.guard]
        self.whole_copies = len(whole)
        # Copies that only some warps of a block issue bring what the others leave.
        rest = loaded_bytes / loop.warps - len(whole) * COPY_BYTES * WARP
        self.guarded_bytes = max(0.0, rest) / max(1, len(copies) - len(whole))

    def item(self, each: Instruction) -> Item:
        """An instruction without what it waits for."""
        gpu, name = self.gpu, each.name
        if each.opcode in WAITS:
            cause = "l2" if WAITS[each.opcode] == COPY else "tensor"
            return Item("wait", 1, 0, cause=cause, name="wait")
        uniform = name.startswith("U") and not name.startswith(_TENSOR_MEMORY)
        if not each.runs or name in _SLOT or uniform:
            latency = gpu.alu.latency_cycles if each.written else 0
            return Item("alu", 1, 0, latency, name="slot")
        if name == "BAR":
            return Item("barrier", 1, 0)
        if name in _PIPES:
            pipe = _PIPES[name]
            lanes = {"fp32": gpu.fp32, "alu": gpu.alu, "sfu": gpu.sfu}[pipe]
            cycles = max(1, round(WARP * gpu.sm.schedulers / lanes.lanes))
            return Item(pipe, 1, cycles, latency_left(lanes.latency_cycles, cycles))
        if name in ("HMMA", PRODUCT):
            return self._product(each)
        if name == COPY:
            moved = self.guarded_bytes if each.guard else COPY_BYTES * WARP
            rate = gpu.l2.read_bytes_per_clock_per_sm / gpu.sm.schedulers
            latency = gpu.l2.latency_cycles + round(self.late_cycles)
            cycles = max(1, round(moved / rate))
            return Item("copy", 1, cycles, latency, asynchronous=True, cause="l2")
        return self._shared(each)

    def _product(self, each: Instruction) -> Item:
        """mma.sync holds the warp until the tensor core takes it; wgmma queues."""
        gpu, dtype = self.gpu, self.loop.dtype
        if each.name != PRODUCT:
            cycles = gpu.warp_instruction_cycles("mma_sync", TENSOR_DTYPE[dtype])
            assert cycles is not None  # the catalogue refuses dtypes without tensor cores
            left = latency_left(gpu.tensor_core.latency_cycles, cycles)
            return Item("tensor", 1, round(cycles), left)
        shape = _WGMMA_SHAPE.search(each.opcode)
        rate = gpu.tensor_core.flops_per_clock[TENSOR_DTYPE[dtype]]
        assert shape is not None
        assert rate is not None
        columns, k = map(int, shape.groups())
        accumulators = set(each.written)
        in_registers = any(name.startswith("R") and name not in accumulators for name in each.read)
        rows = 0 if in_registers else WGMMA_ROWS  # of the left operand, read from shared memory
        read_bytes = (rows + columns) * k * DTYPE_BYTES[dtype]
        cycles = max(
            2 * WGMMA_ROWS * columns * k / rate, read_bytes / gpu.shared_memory.bytes_per_clock
        )
        latency = WGMMA_WAIT_CYCLES if each.groups else 0
        return Item("tensor", 1, round(cycles), latency, asynchronous=True)

    def _shared(self, each: Instruction) -> Item:
        """A warp's access to shared memory; a plain load's lanes share what they read."""
        moved = {
            "LDSM": _MATRIX_BYTES * len(each.written),
            "LDS": SHUFFLE_BYTES,
            "SHFL": SHUFFLE_BYTES,
        }.get(each.name)
        if moved is None:
            raise ValueError(f"{self.loop.kernel} on {self.loop.arch}: unknown {each.opcode}")
        return self._access(moved)

    def _access(self, moved_bytes: int) -> Item:
        memory = self.gpu.shared_memory
        share = memory.bytes_per_clock / self.gpu.sm.schedulers
        cycles = max(1, round(moved_bytes / share))
        left = latency_left(memory.latency_cycles, SHUFFLE_BYTES / share)
        return Item("shared_memory", 1, cycles, left)

    def arriving(self, items: Sequence[Item]) -> dict[int, list[Item]]:
        """What copies write into shared memory, spread over the products: behind which, what."""
        products = [index for index, item in enumerate(items) if item.pipe == "tensor"]
        fill = replace(self._access(LDMATRIX_BYTES), asynchronous=True, name="fill")
        places = Counter(
            products[len(products) * number // self.whole_copies]
            for number in range(self.whole_copies)
        )
        return {index: [fill] * count for index, count in places.items()}


def _grouped(items: Sequence[Item], behind: dict[int, list[Item]]) -> list[Item]:
    """Neighbours alike as one item, unless one takes what another makes."""
    groups: list[list[int]] = []
    for index, item in enumerate(items):
        group = groups[-1] if groups else []
        if group and len(group) < MOST_GROUPED and not behind.get(index - 1):
            waits = {needed for needed, back in item.needs if back == 0}
            if _alike(item, items[group[0]]) and not waits & set(group):
                group.append(index)
                continue
        groups.append([index])
    place: dict[int, int] = {}
    made: list[Item] = []
    for group in groups:
        place |= dict.fromkeys(group, len(made))
        first = items[group[0]]
        needs = dict.fromkeys(need for index in group for need in items[index].needs)
        cycles = sum(items[index].cycles for index in group)
        made.append(replace(first, count=len(group), cycles=cycles, needs=tuple(needs)))
        made += behind.get(group[-1], [])
    return [replace(item, needs=_moved(item.needs, place)) for item in made]


def _alike(item: Item, other: Item) -> bool:
    """Whether two instructions may be one item: they occupy and stand for the same.

    Products, exp2 and accesses to shared memory stay alone: each is worth its own latency.
    """
    return item.pipe in ("fp32", "alu", "copy") and replace(item, needs=()) == replace(
        other, needs=()
    )


def _moved(needs: Sequence[Need], place: dict[int, int]) -> tuple[Need, ...]:
    return tuple(dict.fromkeys((place[needed], back) for needed, back in needs))
