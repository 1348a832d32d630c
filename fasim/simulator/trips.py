"""How often each block of a kernel goes round its loops."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import product

from fasim.schedules.language import Rows
from fasim.schedules.record import Loop, Record
from fasim.schedules.visits import Span, Visit, decisive_axes, spans, visit

Position = Mapping[Hashable, Span]
"""Where a block stands: the rows that its grid tile, or a step of an outer loop, covers."""


@dataclass(frozen=True, order=True, slots=True)
class Trips:
    """Iterations of the main loop by one block."""

    plain: int
    masked: int = 0

    @property
    def total(self) -> int:
        return self.plain + self.masked


@dataclass(frozen=True, slots=True)
class GridTrips:
    """Trips of the blocks of one pattern, in grid order; the grid is `repeats` patterns."""

    pattern: tuple[Trips, ...]
    repeats: int

    @property
    def mean(self) -> float:
        return sum(trips.total for trips in self.pattern) / len(self.pattern)


def grid_trips(record: Record, path: tuple[int, ...]) -> GridTrips:
    """Trips of the loop at `path`: masked blocks differ by the tile of the axis they look from."""
    kernel = record.kernel
    loops = tuple(record.loops[number] for number in path)
    decisive = decisive_axes(kernel, loops)
    pattern: tuple[Trips, ...] = (_block_trips(record, loops, {}),)
    if decisive:
        slowest = kernel.grid.index(decisive[-1])  # axes beyond it repeat the pattern
        axes = kernel.grid[slowest::-1]
        trips = {
            place: _block_trips(record, loops, _position(decisive, place))
            for place in product(*(tuple(spans(kernel, axis)) for axis in decisive))
        }
        index = [axes.index(axis) for axis in decisive]
        pattern = tuple(
            trips[tuple(place[i] for i in index)]
            for place in product(*(tuple(spans(kernel, axis)) for axis in axes))
        )
    if len(set(pattern)) == 1:
        pattern = pattern[:1]
    return GridTrips(pattern, kernel.blocks // len(pattern))


def _position(axes: tuple[str, ...], place: tuple[Span, ...]) -> Position:
    return {("own", axis): span for axis, span in zip(axes, place, strict=True)}


def loop_visit(record: Record, loop: Loop, position: Position) -> Visit:
    """The tiles that `loop` visits from a block's position; all where that does not say."""
    seen_from, within = (
        None if rows is None else position.get(_key(rows)) for rows in (loop.seen_from, loop.within)
    )
    return visit(record.kernel, loop, seen_from, within)


def _key(rows: Rows) -> Hashable:
    return rows.owner if isinstance(rows.owner, int) else (rows.owner, rows.axis)


def _block_trips(record: Record, loops: tuple[Loop, ...], position: Position) -> Trips:
    """Trips of the innermost of nested loops, summed over the steps of the outer ones."""
    loop, inner = loops[0], loops[1:]
    visited = loop_visit(record, loop, position)
    if not inner:
        return Trips(visited.trips - visited.masked, visited.masked)
    steps = [
        _block_trips(record, inner, {**position, loop.number: span}) for span in visited.spans()
    ]
    return Trips(sum(step.plain for step in steps), sum(step.masked for step in steps))
