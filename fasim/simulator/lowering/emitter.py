"""The items emitted so far, and after which of them each value is visible."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import ceil
from typing import Literal

from fasim.hardware.gpu import WARP
from fasim.schedules.record import Op
from fasim.simulator.lowering.body import LoopBody
from fasim.simulator.lowering.instructions import COPY_BYTES, Arithmetic
from fasim.simulator.stream import Item, latency_left

# What a warp's plain load moves, four bytes a lane: shared memory's latency is that of one.
LOAD_BYTES = 4 * WARP


class Emitter:
    """Appends the items of one warp; says which of them make a value.

    Attributes:
        items: in the order of issue.
    """

    def __init__(self, body: LoopBody) -> None:
        self.gpu, self.body = body.gpu, body
        self.items: list[Item] = []
        self._makers: dict[int, list[int]] = {}  # operation → the items that make its parts
        self._free: dict[int, tuple[int, ...]] = {}  # operation without items → what it takes
        self._late: list[tuple[int, int]] = []  # item, operation of the iteration before

    # Items. Each method returns the index of the item it appends.

    def append(self, item: Item) -> int:
        self.items.append(item)
        return len(self.items) - 1

    def require(self, item: int, needed: int, iterations_back: int) -> None:
        """Lets an item wait for one that may come after it in the stream."""
        needs = (*self.items[item].needs, (needed, iterations_back))
        self.items[item] = replace(self.items[item], needs=needs)

    def require_earlier(self, item: int, op_index: int) -> None:
        """Lets an item wait for what an operation made in the iteration before."""
        self._late.append((item, op_index))

    def finish(self) -> None:
        """Binds items to what the iteration before made, once all of it is known."""
        for item, op_index in self._late:
            for needed in self.after((op_index,)):
                self.require(item, needed, 1)

    def arithmetic(
        self,
        pipe: Arithmetic,
        count: float,
        *,
        needs: Sequence[int] = (),
        asynchronous: bool = False,
        name: str,
    ) -> int:
        """`count` instructions, rounded, one at least."""
        instructions = max(1, round(count))
        lanes = {"fp32": self.gpu.fp32, "alu": self.gpu.alu, "sfu": self.gpu.sfu}[pipe]
        cycles = max(1, round(instructions * WARP * self.gpu.sm.schedulers / lanes.lanes))
        return self.append(
            Item(
                pipe,
                instructions,
                cycles,
                latency_left(lanes.latency_cycles, cycles / instructions),
                _now(needs),
                asynchronous=asynchronous,
                name=name,
            )
        )

    def shared_memory(
        self,
        moved_bytes: float,
        count: float = 1,
        *,
        needs: Sequence[int] = (),
        asynchronous: bool = False,
        name: str,
    ) -> int:
        """A warp's access to shared memory, at this scheduler's share of it."""
        memory = self.gpu.shared_memory
        share = memory.bytes_per_clock / self.gpu.sm.schedulers
        return self.append(
            Item(
                "shared_memory",
                max(1, round(count)),
                max(1, round(moved_bytes / share)),
                latency_left(memory.latency_cycles, LOAD_BYTES / share),
                _now(needs),
                asynchronous=asynchronous,
                name=name,
            )
        )

    def l2(
        self,
        pipe: Literal["copy", "global"],
        moved_bytes: float,
        *,
        count: int | None = None,
        needs: Sequence[int] = (),
        write: bool = False,
        visible: bool = False,
        tensor: str = "",
        name: str,
    ) -> int:
        """A warp's share of a tile through the SM's port to L2, at this scheduler's share of it.

        Args:
            count: instructions; by default as many as move 16 bytes a thread.
            visible: for a write, whether its result is when others see it.
            tensor: what is loaded, if it may come from beyond L2.
        """
        l2 = self.gpu.l2
        late = round(self.body.late_cycles.get(tensor, 0.0))
        rate = l2.write_bytes_per_clock_per_sm if write else l2.read_bytes_per_clock_per_sm
        if count is None:
            count = max(1, round(moved_bytes / (WARP * COPY_BYTES)))
        return self.append(
            Item(
                pipe,
                count,
                max(1, round(moved_bytes / (rate / self.gpu.sm.schedulers))),
                0 if write and not visible else l2.latency_cycles + late,
                _now(needs),
                asynchronous=True,
                cause="l2",
                name=name,
            )
        )

    # Values.

    def made(self, op_index: int, items: list[int]) -> None:
        """Says which items make the parts of a value, in order."""
        self._makers[op_index] = items
        self._free.pop(op_index, None)

    def made_free(self, op: Op) -> None:
        """Says that an operation takes no instructions: its value is visible with its inputs."""
        self._free[op.index] = op.inputs

    def after(self, op_indices: Iterable[int]) -> list[int]:
        """The items after which these values are visible whole; none for what is older."""
        return [item for index in op_indices for item in self.part(index, 0, 1)]

    def part(self, op_index: int, step: int, steps: int) -> list[int]:
        """The items after which the share of a value up to `step` of `steps` is visible."""
        if op_index in self._free:
            return [n for source in self._free[op_index] for n in self.part(source, step, steps)]
        items = self._makers.get(op_index)
        if not items:
            return []
        return [items[min(len(items) - 1, ceil((step + 1) * len(items) / steps) - 1)]]


def _now(items: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Items of this iteration as an item's needs, each once."""
    return tuple((item, 0) for item in dict.fromkeys(items))
