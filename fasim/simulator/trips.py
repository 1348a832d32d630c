"""How often each block of a kernel goes round its loops."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from fasim.schedules.record import Loop, Record
from fasim.schedules.visits import Span, Visit, spans, visit

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
    """Trips of the loop at `path`: causal blocks differ by the tile of the axis they look from."""
    kernel = record.kernel
    loops = tuple(record.loops[number] for number in path)
    seen = [loop.seen_from for loop in loops if loop.seen_from is not None]
    looked_from = next((rows.axis for rows in seen if rows.owner == "own"), None)
    if looked_from is None or not kernel.problem.causal:
        return GridTrips((_block_trips(record, loops, {}),), kernel.blocks)
    faster = 1  # blocks that differ only in axes the grid steps through faster
    for axis in kernel.grid[: kernel.grid.index(looked_from)]:
        faster *= kernel.tile_count(axis)
    pattern = tuple(
        _block_trips(record, loops, {("own", looked_from): span})
        for span in spans(kernel, looked_from)
        for _ in range(faster)
    )
    return GridTrips(pattern, kernel.blocks // len(pattern))


def loop_visit(record: Record, loop: Loop, position: Position) -> Visit:
    """The tiles that `loop` visits from a block's position; all where that does not say."""
    seen = loop.seen_from
    if seen is None:
        return visit(record.kernel, loop, None)
    key: Hashable = seen.owner if isinstance(seen.owner, int) else (seen.owner, seen.axis)
    return visit(record.kernel, loop, position.get(key))


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
