"""Operands that products stream from L2 in pieces: CUTLASS's multistage main loop.

A product goes along its contracted side a piece at a time. Before each piece the block waits for
its copy and joins: all warps are then done with the piece before, whose place the next copy takes.
What is fetched ahead is the first pieces, and from when on is the mapping's to say: other tiles lie
in the same shared memory.
"""

from __future__ import annotations

from math import ceil

from fasim.schedules.record import Op
from fasim.simulator.lowering.body import LoopBody
from fasim.simulator.lowering.copies import Copies
from fasim.simulator.lowering.emitter import Emitter
from fasim.simulator.stream import Item


class Pieces:
    """Emits copies, waits and barriers of the products whose operands come in pieces."""

    def __init__(self, body: LoopBody, emitter: Emitter, copies: Copies) -> None:
        self.body, self.emitter, self.copies = body, emitter, copies
        self.mapping = body.mapping
        self._after = dict(self.mapping.fetched_after)
        self._issued: dict[tuple[int, int], list[int]] = {}  # product and piece → its copies
        self._waits: dict[tuple[int, int], int] = {}

    def begin(self, product: Op) -> None:
        """Before a product: fetches its first pieces, if nothing has let them come earlier."""
        if self.body.streamed_operands(product) and product.name not in self._after:
            self._prefetch(product)

    def arrive(self, product: Op, piece: int) -> None:
        """Waits for a piece and joins the block, then fetches into the place of the one before.

        Behind the last piece there is nothing to wait for; the block joins all the same.
        """
        if piece < self._count(product):
            wait = self.emitter.append(Item("wait", 1, 0, cause="l2", name=f"wait {product.name}"))
            self._waits[product.index, piece] = wait
        self.emitter.append(Item("barrier", 1, 0))
        following = piece + self.mapping.stages - 1
        if self._ahead(product) <= following < self._count(product):
            self._fetch(product, following)

    def end(self, product: Op) -> None:
        """Behind a product: the block joins, and fetches what has waited for its shared memory."""
        if not self.body.streamed_operands(product):
            return
        self.emitter.append(Item("barrier", 1, 0))
        for op in self.body.ops:
            if op.kind == "matmul" and self._after.get(op.name) == product.name:
                self._prefetch(op)

    def finish(self) -> None:
        """Binds each wait to its copies, of the iteration before if they come later in this."""
        for key, wait in self._waits.items():
            for copy in self._issued[key]:
                self.emitter.require(wait, copy, 1 if copy > wait else 0)

    def _count(self, product: Op) -> int:
        return ceil(product.contraction / self.mapping.product_step)

    def _ahead(self, product: Op) -> int:
        """Pieces fetched before a product: all, if they fit; else one place is kept free."""
        count, stages = self._count(product), self.mapping.stages
        return count if count <= stages else stages - 1

    def _prefetch(self, product: Op) -> None:
        for piece in range(self._ahead(product)):
            self._fetch(product, piece)

    def _fetch(self, product: Op, piece: int) -> None:
        parts = self._count(product)
        self._issued[product.index, piece] = [
            self.copies.issue(load, parts) for load in self.body.streamed_operands(product)
        ]
