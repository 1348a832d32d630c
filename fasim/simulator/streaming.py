"""Streaming kernels (no matrix product): how long an SM needs to issue a block's instructions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fasim.hardware.gpu import WARP
from fasim.problem import DTYPE_BYTES
from fasim.readings.counting import Counter
from fasim.schedules.record import Record
from fasim.simulator.lowering.instructions import COPY_BYTES, instruction_cost

if TYPE_CHECKING:
    from fasim.hardware import Gpu

# Issue slots that warps of such kernels fill: the rest goes to dependent instructions of the
# few warps that are not waiting for memory (measured on PyTorch's softmax and elementwise).
ISSUE_EFFICIENCY = 0.8


@dataclass(frozen=True, slots=True)
class BlockCycles:
    """Cycles of an SM that one block's instructions take, and the pipe that sets them."""

    cycles: float
    cause: str


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
            demand["issue"] += times * wide * DTYPE_BYTES[op.dtype] / COPY_BYTES
            continue
        pipe, per_element = instruction_cost(op, record, masked=True)
        demand[pipe] += times * wide * per_element / lanes[pipe]
        demand["issue"] += times * wide * per_element
    if mapping.instructions_per_element is not None:
        demand["issue"] = widest * mapping.instructions_per_element
    demand["issue"] /= WARP * gpu.sm.schedulers * ISSUE_EFFICIENCY
    cause = max(demand, key=lambda name: demand[name])
    return BlockCycles(max(1.0, demand[cause]), cause)
