"""Computed tiles that pass through shared memory on their way into a product, and reductions.

An accumulator lies spread over a warp's registers. A product takes its left operand from there
only if the warp that made it needs it, and as it lies; else the tile is stored into shared
memory, and fragments come by ldmatrix, transposed or not.
"""

from __future__ import annotations

from fasim.hardware.gpu import LDMATRIX_BYTES, WARP
from fasim.schedules.record import Op
from fasim.simulator.lowering.body import LoopBody
from fasim.simulator.lowering.emitter import Emitter
from fasim.simulator.lowering.instructions import COPY_BYTES
from fasim.simulator.stream import Item

# A store of fragments moves a register, two halves, a thread (STS.32); rows are swizzled, so
# that no two threads meet in a bank.
STORE_BYTES = 4
# RED passes twice through the load/store path: its addresses, then its values.
REDUCTION_PASSES = 2
REDUCTION_BYTES = 4  # one FP32 value a thread
ACCUMULATOR_BYTES = 4


class Staging:
    """Emits stores of computed operands, the barriers before they are read, and reductions."""

    def __init__(self, body: LoopBody, emitter: Emitter) -> None:
        self.body, self.emitter = body, emitter
        self.behind_barrier = True  # whether all that was stored is visible to the block

    def store(self, ops: list[Op]) -> None:
        """Stores those of these operations' results that products take from shared memory.

        The warps are done with the tiles before: the block has joined since, for the loads of
        this iteration.
        """
        for op in ops:
            if not self.body.is_staged(op):
                continue
            moved = self.body.warp_bytes(op)
            stored = self.emitter.shared_memory(
                moved,
                moved / self._store_bytes(),
                needs=self.emitter.after((op.index,)),
                name="stage",
            )
            self.emitter.made(op.index, [stored])
            self.behind_barrier = False

    def join(self, product: Op) -> None:
        """Before a product that reads what other warps have stored: the block joins once."""
        stays = self.body.mapping.register_operand(product.name)
        left, right = self.body.sources(product)[:2]
        stored = [
            op for side, op in enumerate((left, right)) if side != stays and self.body.is_staged(op)
        ]
        if stored == [left] and self._is_own(left, product):
            return
        if stored and not self.behind_barrier:
            needs = tuple((item, 0) for item in self.emitter.after(op.index for op in stored))
            self.emitter.append(Item("barrier", 1, 0, needs=needs))
            self.behind_barrier = True

    def rearrange(self, op: Op, ways: int) -> None:
        """Passes a tile through shared memory in FP32, and gives each thread whole vectors.

        Stores that conflict in so many ways take as many times their cycles.
        """
        moved = op.elements * ACCUMULATOR_BYTES / self.body.mapping.warps
        count = moved / (WARP * STORE_BYTES)
        needs = self.emitter.after(op.inputs)
        self.emitter.append(Item("barrier", 1, 0))  # the place is another tile's until now
        stored = self.emitter.shared_memory(
            ways * moved, count, needs=needs, name=f"rearrange {op.name}"
        )
        self.emitter.append(Item("barrier", 1, 0, needs=((stored, 0),)))
        read = self.emitter.shared_memory(
            moved, moved / (WARP * COPY_BYTES), needs=[stored], name=f"rearrange {op.name}"
        )
        self.emitter.made(op.inputs[0], [read])

    def _store_bytes(self) -> int:
        """Of one store instruction: kernels with wgmma have stmatrix, as wide as ldmatrix."""
        wgmma = self.body.mapping.matrix_unit == "wgmma"
        return LDMATRIX_BYTES if wgmma else WARP * STORE_BYTES

    def _is_own(self, left: Op, product: Op) -> bool:
        """Whether warps read only rows they wrote themselves: not transposed, all over rows."""
        mapping = self.body.mapping
        return (
            left.axes[0] == product.axes[0]
            and mapping.over_rows()
            and mapping.over_rows(product.name)
        )

    def reduce(self, op: Op) -> None:
        """Adds a tile to global memory: RED, through the L2 write port; nothing waits for it.

        Or by TMA: the tile is stored into a buffer of its own, once that has been read for the
        tile before, and read from there by the copy engine; the warp goes on at once.
        """
        moved = self.body.warp_bytes(op)
        if op.name in self.body.mapping.bulk_reduced:
            self._reduce_bulk(op, moved)
            return
        issued = self.emitter.shared_memory(
            REDUCTION_PASSES * moved,
            moved / (WARP * REDUCTION_BYTES),
            needs=self.emitter.after(op.inputs),
            name=f"reduce {op.name}",
        )
        self.emitter.l2(
            "global", moved, count=1, needs=[issued], write=True, name=f"reduce {op.name}"
        )

    def _reduce_bulk(self, op: Op, moved: float) -> None:
        name = f"reduce {op.name}"
        needs = self.emitter.after(op.inputs)
        stored = self.emitter.shared_memory(
            moved, moved / LDMATRIX_BYTES, needs=needs, name="stage"
        )
        self.emitter.shared_memory(moved, asynchronous=True, name=name)
        added = self.emitter.l2("global", moved, count=1, write=True, name=name)
        self.emitter.require(stored, added, 1)
