"""Sums in global memory that blocks add to one at a time, under a lock.

The block takes the lock, reads the sum as its product's first accumulators, writes them back and,
once that is visible to all, lets go. The lock is taken to be free: blocks come to it in turns.
"""

from __future__ import annotations

from fasim.schedules.record import Op
from fasim.simulator.lowering.body import LoopBody
from fasim.simulator.lowering.emitter import Emitter
from fasim.simulator.stream import Item

LOCK_BYTES = 4


class Locks:
    """Emits what stands around a product whose result is added under a lock."""

    def __init__(self, body: LoopBody, emitter: Emitter) -> None:
        self.body, self.emitter = body, emitter

    def is_locked(self, op: Op) -> bool:
        """Whether a reduction is one under a lock."""
        return op.kind == "reduce" and op.name in self.body.mapping.locked

    def take(self, product: Op) -> list[int]:
        """Before a product: the items that bring what it adds to; none if it adds under no lock."""
        sums = [user for user in self.body.used(product) if self.is_locked(user)]
        loads = []
        for op in sums:
            lock = self.emitter.l2("global", LOCK_BYTES, name="take lock")
            self.emitter.append(Item("barrier", 1, 0, needs=((lock, 0),)))
            self._fence()
            moved = self.body.warp_bytes(op)
            loads.append(self.emitter.l2("global", moved, name=f"load {op.name}"))
        return loads

    def give(self, op: Op) -> None:
        """Behind the product: writes the sum and, once all can see it, frees the lock.

        The block joins before, to know whether it is the last one to add, and in between.
        """
        self.emitter.append(Item("barrier", 1, 0))
        moved, needs = self.body.warp_bytes(op), self.emitter.after(op.inputs)
        self.emitter.l2("global", moved, needs=needs, write=True, name=f"store {op.name}")
        self._fence()
        self.emitter.append(Item("barrier", 1, 0))
        self._fence()
        self.emitter.l2("global", LOCK_BYTES, write=True, name="free lock")

    def _fence(self) -> None:
        """MEMBAR: a round trip to L2, behind all that went there before."""
        sent = self.emitter.l2("global", LOCK_BYTES, write=True, visible=True, name="fence")
        self.emitter.append(Item("wait", 1, 0, needs=((sent, 0),), cause="l2", name="wait fence"))
