"""A loop as the streams of a block: which operation is emitted by whom, in the order of issue.

Warps that all do the same are one stream. Warpgroups that take turns at the tensor cores are a
stream each, alike but for their barriers. Producer warps have none: they issue an instruction a
tile, and what they wait for is bound into the waits of those that compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from fasim.hardware.gpu import WARP
from fasim.schedules.record import Op, Record
from fasim.schedules.residency import REGISTER_BYTES, block_use, spills_fit_l1
from fasim.simulator.lowering.body import LoopBody
from fasim.simulator.lowering.copies import Copies
from fasim.simulator.lowering.elementwise import Elementwise
from fasim.simulator.lowering.emitter import Emitter
from fasim.simulator.lowering.instructions import (
    LOOP_INSTRUCTIONS,
    is_elementwise,
    is_rare,
)
from fasim.simulator.lowering.locks import Locks
from fasim.simulator.lowering.pieces import Pieces
from fasim.simulator.lowering.products import Products
from fasim.simulator.lowering.reorder import list_scheduled
from fasim.simulator.lowering.staging import Staging
from fasim.simulator.lowering.turns import Turn
from fasim.simulator.stream import Item, Stream

if TYPE_CHECKING:
    from fasim.hardware import Gpu


@dataclass(frozen=True, slots=True)
class LoopStream:
    """A lowered loop: its streams, one a role, without and with the mask's instructions.

    Attributes:
        bytes_per_iteration: what a block's loads bring through the SM's L2 port.
    """

    plain: tuple[Stream, ...]
    masked: tuple[Stream, ...]
    bytes_per_iteration: int


def main_loop(record: Record) -> tuple[int, ...]:
    """The loop in which a program multiplies most: the path of its largest matmuls."""
    work: dict[tuple[int, ...], int] = {}
    for op in record.once():
        if op.kind == "matmul" and op.path:
            work[op.path] = work.get(op.path, 0) + op.elements * op.contraction
    return max(work, key=lambda path: work[path]) if work else ()


def lower(
    record: Record, gpu: Gpu, path: tuple[int, ...], late_cycles: Mapping[str, float] | None = None
) -> LoopStream:
    """The streams of the loop at `path`, for the warps of one block on one scheduler.

    Args:
        late_cycles: of each tensor, by how much a load takes longer than one that hits L2.
    """
    always = record.kernel.mapping.masks_every_tile
    plain, loaded_bytes = _streams(LoopBody(record, gpu, path, late_cycles, masked=always))
    masked = plain
    if record.kernel.problem.masked and not always:
        masked, _ = _streams(LoopBody(record, gpu, path, late_cycles, masked=True))
    return LoopStream(plain, masked, loaded_bytes)


def _streams(body: LoopBody) -> tuple[tuple[Stream, ...], int]:
    """The roles of a block, and the bytes the whole of it loads."""
    warps, groups = body.mapping.warps, body.mapping.warpgroups
    turns: list[Turn | None] = [None]
    if body.mapping.ping_pong and groups > 1:
        turns = [Turn(group, groups) for group in range(groups)]
    per_scheduler = max(1, ceil(warps / len(turns) / body.gpu.sm.schedulers))
    streams = []
    loaded_bytes = 0
    for turn in turns:
        copies, items = _items(body, turn)
        if copies.arriving:  # they go on to arrive in the next iteration
            copies, items = _items(body, turn, copies.arriving)
        loaded_bytes = copies.loaded_bytes
        streams.append(Stream(items, per_scheduler))
    return tuple(streams), loaded_bytes


def _items(
    body: LoopBody, turn: Turn | None, arriving: Sequence[str] = ()
) -> tuple[Copies, tuple[Item, ...]]:
    """One warp's items, and the copies among them.

    Args:
        arriving: pieces of tiles on their way as the iteration begins.
    """
    emitter = Emitter(body)
    begins, ends = _turn_positions(body) if turn else (-1, -1)
    copies = Copies(body, emitter, arriving)
    pieces = Pieces(body, emitter, copies)
    products = Products(body, emitter, copies, pieces)
    locks = Locks(body, emitter)
    elementwise = Elementwise(body, emitter)
    staging = Staging(body, emitter)
    pending: list[Op] = []  # elementwise operations, kept until something else comes
    for position, op in enumerate(body.ops):
        if copies.waits_at(position) or not is_elementwise(op):
            elementwise.emit(pending)
            staging.store(pending)
            pending = []
        if turn and position == begins:
            emitter.append(turn.wait())
        if copies.arrive(position):
            staging.behind_barrier = True
        if is_elementwise(op):
            pending.append(op)
        elif op.kind == "matmul":
            products.set_up()
            staging.join(op)
            pieces.begin(op)
            products.emit(op, locks.take(op))
            pieces.end(op)
        elif op.kind == "store" and not is_rare(op):
            for tensor, ways in body.mapping.rearranged:
                if tensor == op.name:
                    staging.rearrange(op, ways)
            copies.store(op)
        elif locks.is_locked(op):
            locks.give(op)
        elif op.kind == "reduce":
            staging.reduce(op)
            copies.refill(position)
        elif op.kind == "load" and not (is_rare(op) or body.is_table(op) or copies.fetches(op)):
            copies.load(op)
        if turn and position == ends:
            emitter.append(turn.pass_on())
    elementwise.emit(pending)
    staging.store(pending)
    products.drain()
    copies.arrive(len(body.ops))
    _spill(body, emitter)
    pieces.finish()
    copies.finish()
    emitter.finish()
    if body.mapping.overhead is None:
        emitter.arithmetic("alu", LOOP_INSTRUCTIONS, name="loop")
    items = tuple(emitter.items)
    if body.mapping.list_scheduled:
        items = list_scheduled(items)
    return copies, items


def _spill(body: LoopBody, emitter: Emitter) -> None:
    """Spilled registers, out and in again: nothing waits for them but their pipe.

    L1 shares its data path with shared memory; what does not fit there comes from L2.
    """
    use = block_use(body.record)
    spilled, warp_bytes = use.spilled_in_loop, use.spilled_in_loop * WARP * REGISTER_BYTES
    if not spilled:
        return
    if spills_fit_l1(use, body.gpu):
        emitter.shared_memory(2 * warp_bytes, 2 * spilled, name="spill")
        return
    emitter.l2("global", warp_bytes, count=spilled, write=True, name="spill")
    emitter.l2("global", warp_bytes, count=spilled, name="spill")


def _turn_positions(body: LoopBody) -> tuple[int, int]:
    """The first matmul of an iteration, and the last of those issued back to back with it."""
    products = [op.kind == "matmul" for op in body.ops]
    first = last = products.index(True)
    while last + 1 < len(products) and products[last + 1]:
        last += 1
    return first, last
