"""A loop as the stream of one warp: which operation is emitted by whom, in program order."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from fasim.hardware.gpu import WARP
from fasim.readings.local_memory import REGISTER_BYTES
from fasim.schedules.record import Op, Record
from fasim.schedules.residency import block_use
from fasim.simulator.lowering.body import LoopBody
from fasim.simulator.lowering.copies import Copies
from fasim.simulator.lowering.elementwise import Elementwise
from fasim.simulator.lowering.emitter import Emitter
from fasim.simulator.lowering.instructions import (
    LOOP_INSTRUCTIONS,
    is_elementwise,
)
from fasim.simulator.lowering.products import Products
from fasim.simulator.lowering.staging import Staging
from fasim.simulator.stream import Stream

if TYPE_CHECKING:
    from fasim.hardware import Gpu


@dataclass(frozen=True, slots=True)
class LoopStream:
    """A lowered loop: its stream without and with the mask's instructions.

    Attributes:
        bytes_per_iteration: what a block's loads bring through the SM's L2 port.
    """

    plain: Stream
    masked: Stream
    bytes_per_iteration: int


def main_loop(record: Record) -> tuple[int, ...]:
    """The loop in which a program multiplies most: the path of its largest matmuls."""
    work: dict[tuple[int, ...], int] = {}
    for op in record.once():
        if op.kind == "matmul" and op.path:
            work[op.path] = work.get(op.path, 0) + op.elements * op.contraction
    return max(work, key=lambda path: work[path]) if work else ()


def lower(record: Record, gpu: Gpu, path: tuple[int, ...]) -> LoopStream:
    """The stream of the loop at `path`, for one warp of the block."""
    plain, loaded_bytes = _stream(LoopBody(record, gpu, path, masked=False))
    masked, _ = _stream(LoopBody(record, gpu, path, masked=True))
    return LoopStream(plain, masked, loaded_bytes)


def _stream(body: LoopBody) -> tuple[Stream, int]:
    """One warp's items, and the bytes the whole block loads."""
    emitter = Emitter(body)
    copies = Copies(body, emitter)
    products = Products(body, emitter, copies)
    elementwise = Elementwise(body, emitter)
    staging = Staging(body, emitter)
    pending: list[Op] = []  # elementwise operations, kept until something else comes
    for position, op in enumerate(body.ops):
        if copies.waits_at(position) or not is_elementwise(op):
            elementwise.emit(pending)
            staging.store(pending)
            pending = []
        copies.arrive(position)
        if is_elementwise(op):
            pending.append(op)
        elif op.kind == "matmul":
            staging.join(op)
            products.emit(op)
        elif op.kind == "store":
            copies.store(op)
        elif op.kind == "reduce":
            staging.reduce(op)
        elif op.kind == "load" and not body.is_buffered(op):
            copies.load(op)
    elementwise.emit(pending)
    copies.arrive(len(body.ops))
    spilled = block_use(body.record).spilled_in_loop
    if spilled:  # out and in again, through L1, which shares its data path with shared memory
        warp_bytes = 2 * spilled * WARP * REGISTER_BYTES
        emitter.shared_memory(warp_bytes, 2 * spilled, name="spill")
    copies.finish()
    emitter.arithmetic("alu", LOOP_INSTRUCTIONS, name="loop")
    per_scheduler = max(1, ceil(body.mapping.warps / body.gpu.sm.schedulers))
    return Stream(tuple(emitter.items), per_scheduler), copies.loaded_bytes
