"""How often an operation of a record happens, and over how many elements, in closed form.

Sums over blocks and loop iterations; only axes along which the mask changes a trip count are
walked tile by tile, so the cost does not grow with batch, heads or equal tiles.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import prod

from fasim.schedules.language import Rows
from fasim.schedules.record import Loop, Op, Record
from fasim.schedules.visits import Span, decisive_axes, spans, visit

Owner = tuple[str, str] | int

# A tile's rows have one first and one last step of a loop over what they see, or of one around it
# that starts with what all rows see: as many accesses happen in last steps as in first ones, and
# all others come after the first.
STEPS = {
    "first": slice(0, 1),
    "after first": slice(1, None),
    "before last": slice(1, None),
    "last": slice(0, 1),
}
EVERY = slice(None)


def owner_of(rows: Rows) -> Owner:
    """A key for the range: its loop, or its kind and axis. Pages are counted apart from rows."""
    if rows.axis == "page":
        return "page", str(rows.owner)
    return rows.owner if isinstance(rows.owner, int) else (rows.owner, rows.axis)


class Counter:
    """Counts the operations of one record; sums shared by several operations are kept."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.kernel = record.kernel
        self._sums: dict[tuple[object, ...], int] = {}

    def executions(self, op: Op) -> int:
        """How often the whole grid does `op`."""
        return self._sum(op, frozenset(), _steps(op))

    def elements(self, op: Op) -> int:
        """Elements a load or store moves in all, clipped at the edges, re-reads included."""
        return self._elements(op, _steps(op))

    def distinct(self, op: Op) -> int:
        """Elements that an access of some steps moves at least once."""
        return self._elements(op, slice(1, 2) if _steps(op).start else _steps(op))

    def _elements(self, op: Op, steps: slice) -> int:
        bound = frozenset(owner_of(rows) for rows in op.rows.values())
        count = self._sum(op, bound, steps)
        for rows in op.rows.values():
            if rows.owner == "all":
                count *= self.kernel.lengths[rows.axis]
        return count

    def _sum(self, op: Op, bound: frozenset[Owner], steps: slice) -> int:
        # A load happens at its first use, so deeper loops decide whether it happens at all.
        around = max(op.path, op.used_in or (), key=len)
        loops = tuple(self.record.loops[number] for number in around)
        stepped = None if op.when is None else op.when.loop.owner
        chosen = (stepped, steps.start, steps.stop)
        key = (op.path, tuple(loop.number for loop in loops), bound, chosen)
        if key not in self._sums:
            self._sums[key] = self._over_grid(op, loops, bound, steps)
        return self._sums[key]

    def _over_grid(
        self, op: Op, loops: tuple[Loop, ...], bound: frozenset[Owner], steps: slice
    ) -> int:
        kernel = self.kernel
        walked = decisive_axes(kernel, loops)
        factor = 1
        for axis in kernel.grid:
            if axis not in walked:
                own = ("own", axis) in bound
                factor *= kernel.lengths[axis] if own else kernel.tile_count(axis)
        owners = [("own", axis) for axis in walked]
        count = 0
        for place in product(*(spans(kernel, axis) for axis in walked)):
            position: dict[Owner, Span] = dict(zip(owners, place, strict=True))
            own_rows = prod(span.length for owner, span in position.items() if owner in bound)
            count += own_rows * self._over_loops(op, loops, bound, position, steps)
        return factor * count

    def _over_loops(
        self,
        op: Op,
        loops: tuple[Loop, ...],
        bound: frozenset[Owner],
        position: dict[Owner, Span],
        steps: slice,
    ) -> int:
        if not loops:
            return 1
        loop, inner = loops[0], loops[1:]
        seen_from = None if loop.seen_from is None else position.get(owner_of(loop.seen_from))
        within = None if loop.within is None else position.get(owner_of(loop.within))
        visited = visit(self.kernel, loop, seen_from, within)
        if op.when is not None and op.when.loop.owner == loop.number:
            first, stop, _ = steps.indices(visited.last - visited.first)
            first, stop = visited.first + first, visited.first + stop
            visited = replace(visited, first=first, last=max(first, stop))
        repeats = loop.number in op.path
        if self.kernel.problem.masked and any(
            later.seen_from is not None and later.seen_from.owner == loop.number for later in inner
        ):
            counts = (
                (span.length if repeats and loop.number in bound else 1)
                * self._over_loops(op, inner, bound, {**position, loop.number: span}, steps)
                for span in visited.spans()
            )
            return sum(counts) if repeats else int(any(counts))
        rest = self._over_loops(op, inner, bound, position, steps)
        if not repeats:  # a load before a loop, first used in it: once, if the loop runs at all
            return int(visited.trips > 0 and rest > 0)
        if ("page", str(loop.number)) in bound:
            return visited.pages(self.kernel) * rest
        return (visited.rows if loop.number in bound else visited.trips) * rest


def _steps(op: Op) -> slice:
    return EVERY if op.when is None else STEPS[op.when.which]
