"""Streaming kernels (no matrix product): how long an SM needs to issue a block's instructions."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from fasim.hardware.gpu import WARP
from fasim.readings.counting import Counter
from fasim.schedules.language import ELEMENT_BYTES
from fasim.schedules.record import Record
from fasim.simulator.lowering.instructions import COPY_BYTES, instruction_cost
from fasim.simulator.trips import loop_visit

if TYPE_CHECKING:
    from fasim.hardware import Gpu

# Issue slots that warps of such kernels fill: the rest goes to dependent instructions of the
# few warps that are not waiting for memory (measured on PyTorch's softmax and elementwise).
ISSUE_EFFICIENCY = 0.8


# Of a block that goes round a loop: its arguments, the first values, the last store.
EXPOSED_LATENCIES = 3
# From the values of an iteration to the loads of the next: a few dependent instructions.
ITERATION_CYCLES = 40


@dataclass(frozen=True, slots=True)
class BlockCycles:
    """Cycles of an SM that one block's instructions take, and the pipe that sets them.

    Attributes:
        waits: latencies of its loops, one an iteration that loads: nothing is fetched ahead.
        chain: latencies outside loops that come one behind the other: warps issue in order, and
            what follows the first use of a load is not fetched before it.
    """

    cycles: float
    cause: str
    waits: int
    chain: int


def chained_loads(record: Record) -> int:
    """Latencies of a block's loads outside loops, those issued side by side being one."""
    chain, waiting = 0, False
    for op in record.once():
        if op.path or op.kind == "full":
            continue
        loads = op.kind == "load"
        chain += loads and not waiting
        waiting = loads
    return chain


def iterations(record: Record, path: tuple[int, ...]) -> int:
    """How often a block does what stands in these loops."""
    return prod(loop_visit(record, record.loops[number], {}).trips for number in path)


def block_cycles(record: Record, gpu: Gpu) -> BlockCycles:
    """Issue or the widest pipe, whichever is longer, for one block of a streaming kernel."""
    mapping = record.kernel.mapping
    demand = dict.fromkeys(("issue", "sfu", "fp32", "alu"), 0.0)
    lanes = {"sfu": gpu.sfu.lanes, "fp32": gpu.fp32.lanes, "alu": gpu.alu.lanes}
    widest = 0
    counter = Counter(record)
    for op in record.once():
        if op.kind == "full":  # a constant
            continue
        times = counter.executions(op) / record.kernel.blocks
        wide = record.ops[op.inputs[0]].elements if op.kind.startswith("row_") else op.elements
        widest = max(widest, wide)
        if op.kind in ("load", "store"):
            demand["issue"] += times * wide * ELEMENT_BYTES[op.dtype] / COPY_BYTES
            continue
        pipe, per_element = instruction_cost(op, record, masked=True)
        demand[pipe] += times * wide * per_element / lanes[pipe]
        demand["issue"] += times * wide * per_element
    if mapping.instructions_per_element is not None:
        demand["issue"] = widest * mapping.instructions_per_element
    demand["issue"] /= WARP * gpu.sm.schedulers * ISSUE_EFFICIENCY
    cause = max(demand, key=lambda name: demand[name])
    loading = {op.path for op in record.once() if op.kind == "load" and op.path}
    waits = sum(iterations(record, path) for path in loading)
    chain = mapping.lookups + chained_loads(record)
    return BlockCycles(max(1.0, demand[cause]), cause, waits, chain)
