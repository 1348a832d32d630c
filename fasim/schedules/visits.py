"""Which tiles a loop visits: the one place that knows what causal masks and windows skip.

Arithmetic only; numerics decides the same question by looking at the mask itself, so that
the two can contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from fasim.problem import Attention
from fasim.schedules.language import Kernel
from fasim.schedules.record import Loop


@dataclass(frozen=True, slots=True)
class Span:
    """Rows start … stop−1 of an axis, clipped to its length."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Visit:
    """The tiles of one loop, run once: numbers first … last−1, of which some need the mask.

    Attributes:
        axis: the axis the loop steps along, of `length` rows in all.
        tile: rows of a full tile.
        clear_first, clear_last: tiles clear_first … clear_last−1 have no score that is hidden.
    """

    axis: str
    tile: int
    length: int
    first: int
    last: int
    clear_first: int
    clear_last: int

    @property
    def trips(self) -> int:
        """Tiles visited."""
        return self.last - self.first

    @property
    def masked(self) -> int:
        """Visited tiles with a score that is hidden: those at an edge of the mask."""
        clear = min(self.last, self.clear_last) - max(self.first, self.clear_first)
        return self.trips - max(0, clear)

    @property
    def rows(self) -> int:
        """Rows of all visited tiles, clipped."""
        return min(self.last * self.tile, self.length) - self.first * self.tile if self.trips else 0

    def spans(self) -> Iterator[Span]:
        """The rows of each visited tile, clipped."""
        for tile in range(self.first, self.last):
            yield Span(tile * self.tile, min((tile + 1) * self.tile, self.length))

    def pages(self, kernel: Kernel) -> int:
        """Pages that each visited tile touches, summed."""
        return sum(len(kernel.pages(span.start, span.stop)) for span in self.spans())


def spans(kernel: Kernel, axis: str) -> Iterator[Span]:
    """The tiles of a whole axis."""
    length, tile = kernel.lengths[axis], kernel.tile(axis)
    for start in range(0, length, tile):
        yield Span(start, min(start + tile, length))


def decisive_axes(kernel: Kernel, loops: Iterable[Loop]) -> tuple[str, ...]:
    """Grid axes on which a block's position decides how often it goes round these loops."""
    ranges = [loop.within for loop in loops]
    if kernel.problem.masked:
        ranges += [loop.seen_from for loop in loops]
    own = {rows.axis for rows in ranges if rows is not None and rows.owner == "own"}
    return tuple(axis for axis in kernel.grid if axis in own)


def visit(kernel: Kernel, loop: Loop, seen_from: Span | None, within: Span | None = None) -> Visit:
    """The tiles of `loop` that the rows `seen_from` see, of the part `within` of them.

    All tiles where nothing hides any and nothing deals them out.
    """
    visited = _seen(kernel, loop, seen_from)
    if loop.within is None or within is None:
        return visited
    part = -(-kernel.tile_count(loop.axis) // kernel.lengths[loop.within.axis])
    first = max(visited.first, within.start * part)
    last = max(first, min(visited.last, within.stop * part))
    return replace(visited, first=first, last=last)


def _seen(kernel: Kernel, loop: Loop, seen_from: Span | None) -> Visit:
    axis, tile, length = loop.axis, kernel.tile(loop.axis), kernel.lengths[loop.axis]
    count = -(-length // tile)
    if loop.seen_from is None or seen_from is None or not kernel.problem.masked:
        return Visit(axis, tile, length, 0, count, 0, count)
    # Query q sees keys q + offset − left … q + offset + right (bottom-right alignment), and so
    # key k is seen by queries k − offset − right … k − offset + left.
    before, after = kernel.problem.reach
    offset = kernel.lengths["k"] - kernel.queries
    start, end = seen_from.start, seen_from.stop - 1
    if axis == "k":
        start, end = start // kernel.group, end // kernel.group
    else:
        before, after, offset = after, before, -offset
    # Rows that anything sees, and rows that everything sees: from … to−1.
    first = 0 if before is None else max(0, start + offset - before)
    last = length if after is None else min(length, end + offset + after + 1)
    clear_first = 0 if before is None else max(0, end + offset - before)
    clear_last = length if after is None else min(length, start + offset + after + 1)
    if last <= first:
        return Visit(axis, tile, length, 0, 0, 0, 0)
    return Visit(
        axis,
        tile,
        length,
        first // tile,
        -(-last // tile),
        -(-clear_first // tile),
        count if clear_last == length else max(0, clear_last) // tile,
    )


def visible_rows(problem: Attention) -> int:
    """Queries that see at least one key."""
    _, right = problem.reach
    return problem.seqlen_q if right is None else min(problem.seqlen_q, problem.seqlen_k + right)


def visible_keys(problem: Attention) -> int:
    """Keys that at least one query sees."""
    left, _ = problem.reach
    return problem.seqlen_k if left is None else min(problem.seqlen_k, problem.seqlen_q + left)
