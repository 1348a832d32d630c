"""Tiles between L2 and the SM: where a block waits for them, and when the next is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from fasim.hardware.gpu import LDMATRIX_BYTES, WARP
from fasim.schedules.record import Op
from fasim.simulator.lowering.body import LoopBody
from fasim.simulator.lowering.emitter import Emitter
from fasim.simulator.lowering.instructions import ADDRESS_INSTRUCTIONS
from fasim.simulator.stream import Item

# Arriving tiles are written into shared memory in pieces as large as a warp reads (ldmatrix.x4),
# so that both take turns as they do in the memory's queue.
ARRIVING_BYTES = LDMATRIX_BYTES
# cp.async copies 4, 8 or 16 bytes (PTX ISA). Narrower, a copy is a load and a store.
LEAST_ASYNC_BYTES = 4
BANK_BYTES = 4  # of shared memory: a thread that stores fewer takes one all the same


class Copies:
    """Emits the loads and stores of one iteration.

    A tensor with buffers in shared memory is fetched ahead: the block waits for its tile at a
    *point*, and issues the next copy at the first point after the last use of the tile, where
    its buffer is free; an only buffer, if no other tile is waited for first, behind a barrier
    right after that use. A plain load comes into registers, and at the point goes on into its
    buffer, between two barriers. A tensor without buffers comes straight into registers.

    Args:
        arriving: tensors of the pieces that the iteration before has left on their way.

    Attributes:
        arriving: those that this one has, so far.
        loaded_bytes: what the loads bring for the whole block.
    """

    def __init__(self, body: LoopBody, emitter: Emitter, arriving: Sequence[str] = ()) -> None:
        self.body, self.emitter, self.mapping = body, emitter, body.mapping
        self.buffered = [op for op in body.ops if body.is_buffered(op) and not body.is_streamed(op)]
        self.ahead = [op for op in self.buffered if op.name not in self.mapping.plain_loads]
        self.points: dict[int, list[Op]] = {}  # position in the body → loads waited for there
        for load in self.buffered:
            self.points.setdefault(self._wait_point(load), []).append(load)
        named = dict(self.mapping.wait_before)
        self.direct: dict[int, list[Op]] = {}  # the same of loads into registers, where named
        for load in body.ops:
            if load.kind == "load" and load.name in named and not body.is_buffered(load):
                self.direct.setdefault(self._wait_point(load), []).append(load)
        self.issue_points = {self._issue_point(load)[0] for load in self.ahead}
        self.waits: dict[int, int] = {}  # load → item that waits for it
        self.copies: dict[int, int] = {}  # load → item of its copy
        self.arriving = list(arriving)  # tensors of the pieces on their way
        self.refilled: set[int] = set()  # loads whose next copy a producer has issued
        self.loaded_bytes = 0

    def waits_at(self, position: int) -> bool:
        """Whether the block waits for a tile before this operation."""
        return any(position in at for at in (self.points, self.issue_points, self.direct))

    def is_ahead(self, load: Op) -> bool:
        """Whether a load is fetched ahead, into its buffer."""
        return load in self.ahead

    def fetches(self, load: Op) -> bool:
        """Whether a tile comes into shared memory by copies, whole or in pieces."""
        return self.is_ahead(load) or self.body.is_streamed(load)

    def arrive(self, position: int) -> bool:
        """Waits for the loads of this point, joins the block, issues what has room now.

        Returns:
            Whether what the block has stored before, too, is visible to it from here.
        """
        for load in self.direct.get(position, ()):
            needs = tuple((item, 0) for item in self.emitter.after((load.index,)))
            self.emitter.append(
                Item("wait", 1, 0, needs=needs, cause="l2", name=f"wait {load.name}")
            )
        if position not in self.points and position not in self.issue_points:
            return False
        arrived = self.points.get(position, [])
        for load in arrived:
            if self.is_ahead(load):
                wait = self.emitter.append(Item("wait", 1, 0, cause="l2", name=f"wait {load.name}"))
                self.waits[load.index] = wait
                self.emitter.made(load.index, [wait])
        if self.mapping.copy_unit != "tma":  # TMA signals a barrier in shared memory instead
            self.emitter.append(Item("barrier", 1, 0))
        plain = [load for load in arrived if not self.is_ahead(load)]
        if plain:
            self._fill_buffers(plain)
        for load in self.ahead:
            if not self.mapping.producer_warps and self._issue_point(load)[0] == position:
                self._copy(load)
        return bool(plain)

    def _fill_buffers(self, loads: list[Op]) -> None:
        """Stores tiles from registers, and joins the block behind that."""
        for load in loads:
            moved = self.body.warp_bytes(load)
            stored = self.emitter.shared_memory(
                moved,
                moved / (WARP * self.mapping.copy_bytes),
                needs=self.emitter.after((load.index,)),
                name=f"fill {load.name}",
            )
            self.emitter.made(load.index, [stored])
        needs = tuple((n, 0) for n in self.emitter.after(load.index for load in loads))
        self.emitter.append(Item("barrier", 1, 0, needs=needs))

    def refill(self, position: int) -> None:
        """Lets producers refill the only buffers that the block is done with after an operation.

        One that takes a product, issued no sooner than the last reader of a tile, has waited for
        that reader too. Others, of which there is another to work on, wait for the end.
        """
        if not self.mapping.producer_warps:
            return
        ops = self.body.ops
        taken = [i for i, op in enumerate(ops) if op.index in ops[position].inputs]
        for load in self.ahead:
            last = max(i for i, op in enumerate(ops) if load.index in op.inputs)
            done = any(last <= i and self.body.asynchronous(ops[i]) for i in taken)
            only = self.mapping.buffer_count(load.name) == 1
            if only and done and load.index not in self.refilled:
                self._copy(load)
                self.refilled.add(load.index)

    def fill(self, pieces: int) -> None:
        """Writes the next pieces that arrive into shared memory."""
        stores = 1.0  # what cp.async and TMA bring needs no instructions of its own
        if self.mapping.copy_bytes < LEAST_ASYNC_BYTES:
            stores = ARRIVING_BYTES / (WARP * BANK_BYTES)
        for tensor in self.arriving[:pieces]:
            self.emitter.shared_memory(
                ARRIVING_BYTES, stores, asynchronous=True, name=f"fill {tensor}"
            )
        del self.arriving[:pieces]

    def fill_share(self, remaining: int) -> None:
        """Writes its share of what arrives, the first of `remaining` places left to do so."""
        self.fill(ceil(len(self.arriving) / remaining))

    def load(self, op: Op) -> None:
        """A load straight into registers: it takes the L2's latency."""
        self.loaded_bytes += self.body.tile_bytes(op)
        moved = self.body.warp_bytes(op)
        load = self.emitter.l2("global", moved, tensor=op.name, name=f"load {op.name}")
        self.emitter.made(op.index, [load])

    def store(self, op: Op) -> None:
        """A store from registers; nothing waits for it."""
        needs = self.emitter.after(op.inputs)
        moved = self.body.warp_bytes(op)
        self.emitter.l2("global", moved, needs=needs, write=True, name=f"store {op.name}")

    def finish(self) -> None:
        """Issues what is left to producers, and binds waits to copies.

        Each wait needs the copy issued as many iterations back as there are buffers. Producers
        refill at the end what they have not before: by then the products that read it are done.
        """
        if self.mapping.producer_warps:
            for load in self.ahead:
                if load.index not in self.refilled:
                    self._copy(load)
        for load in self.ahead:
            wait, copy = self.waits[load.index], self.copies[load.index]
            same_iteration = bool(self.mapping.producer_warps) or self._issue_point(load)[1]
            back = self.mapping.buffer_count(load.name) - (0 if same_iteration else 1)
            self.emitter.require(wait, copy, back)

    def _wait_point(self, load: Op) -> int:
        """Where to wait for a load: before the matmul, or the first operation of the kind, that
        the mapping names; else before its first use.
        """
        target = dict(self.mapping.wait_before).get(load.name)
        for position, op in enumerate(self.body.ops):
            if target is None and load.index in op.inputs:
                return position
            if target is not None and target in (op.kind, op.name if op.kind == "matmul" else ""):
                return position
        raise ValueError(
            f"kernel {self.body.record.kernel.name}: its mapping waits for {load.name} before "
            f"{target!r}, and the loop has no such operation"
        )

    def _issue_point(self, load: Op) -> tuple[int, bool]:
        """The point of a tile's next copy, and whether it is in the iteration that used it."""
        if self.mapping.copies_last:
            # A product still in flight reads its tile: what is free is the place of the one before.
            return len(self.body.ops), not self.body.leaves_products_in_flight()
        uses = [i for i, op in enumerate(self.body.ops) if load.index in op.inputs]
        later = [point for point in self.points if point > uses[-1]]
        if later:
            return min(later), True
        first = min(self.points)
        if self.mapping.buffer_count(load.name) == 1 and load in self.points[first]:
            return uses[-1] + 1, True
        return first, False

    def _entries(self, load: Op) -> list[int]:
        """Reads a page table for the first tile that lies where it says; later ones have it."""
        entries: list[int] = []
        for table in self.body.sources(load):
            if self.body.used(table)[0] is load:
                self.load(table)
                entries += self.emitter.after((table.index,))
        return entries

    def _copy(self, load: Op) -> None:
        """Issues a tile's next copy."""
        self.copies[load.index] = self.issue(load)

    def issue(self, load: Op, parts: int = 1) -> int:
        """Issues the copy of one of a tile's parts: through the L2 port, into shared memory."""
        self.loaded_bytes += self.body.tile_bytes(load) // parts
        moved = self.body.warp_bytes(load) / parts
        count = 1  # TMA: one thread asks for the whole tile
        if self.mapping.copy_unit == "cp.async":
            count = max(1, round(moved / (WARP * self.mapping.copy_bytes)))
            if self.mapping.overhead is None:
                addresses = ADDRESS_INSTRUCTIONS * count
                self.emitter.arithmetic("alu", addresses, name=f"address {load.name}")
        # A cluster's blocks fetch a share each, and every one gets the whole tile.
        copy = self.emitter.l2(
            "copy",
            moved / self.mapping.multicast_count(load.name),
            count=count,
            needs=self._entries(load),
            tensor=load.name,
            name=f"copy {load.name}",
        )
        # What arrives is written into shared memory while the next product runs; a tile that is
        # transposed there is read and written once more.
        passes = 3 if load.name in self.mapping.transposed else 1
        passes *= max(1, BANK_BYTES // self.mapping.copy_bytes)
        self.arriving += [load.name] * max(1, round(passes * moved / ARRIVING_BYTES))
        return copy
