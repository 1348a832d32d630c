"""Which tiles a loop visits: the one place that knows causal skipping.

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
        masked: visited tiles with a score the causal mask hides (those on the diagonal).
        stride: from one visited tile to the next.
    """

    axis: str
    tile: int
    length: int
    first: int
    last: int
    masked: int
    stride: int = 1

    @property
    def tiles(self) -> range:
        """Numbers of the visited tiles."""
        return range(self.first, self.last, self.stride)

    @property
    def trips(self) -> int:
        """Tiles visited."""
        return len(self.tiles)

    @property
    def rows(self) -> int:
        """Rows of all visited tiles, clipped."""
        if not self.trips:
            return 0
        missing = max(0, (self.tiles[-1] + 1) * self.tile - self.length)  # of the last tile
        return self.trips * self.tile - missing

    def spans(self) -> Iterator[Span]:
        """The rows of each visited tile, clipped."""
        for tile in self.tiles:
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
    if kernel.problem.causal:
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
    if loop.in_turns:
        return _in_turns(visited, within.start, kernel.lengths[loop.within.axis])
    part = -(-kernel.tile_count(loop.axis) // kernel.lengths[loop.within.axis])
    first = max(visited.first, within.start * part)
    last = max(first, min(visited.last, within.stop * part))
    return replace(
        visited,
        first=first,
        last=last,
        masked=max(0, last - max(first, visited.last - visited.masked)),
    )


def _in_turns(visited: Visit, own: int, parts: int) -> Visit:
    """Every `parts`-th of the visited tiles: those whose number leaves `own`."""
    first = visited.first + (own - visited.first) % parts
    own_tiles = range(first, visited.last, parts)
    # The diagonal is where a loop over keys ends, and where one over queries begins.
    after = visited.last - visited.masked
    diagonal = range(after, visited.last)
    if visited.axis == "q":
        diagonal = range(visited.first, visited.first + visited.masked)
    masked = sum(tile in own_tiles for tile in diagonal)
    return replace(visited, first=first, last=max(first, visited.last), masked=masked, stride=parts)


def _seen(kernel: Kernel, loop: Loop, seen_from: Span | None) -> Visit:
    axis, tile, length = loop.axis, kernel.tile(loop.axis), kernel.lengths[loop.axis]
    count = -(-length // tile)
    if loop.seen_from is None or seen_from is None or not kernel.problem.causal:
        return Visit(axis, tile, length, 0, count, 0)
    # Row q sees key k if k ≤ q + offset (bottom-right alignment).
    offset = kernel.lengths["k"] - kernel.queries
    if axis == "k":
        first_query, last_query = (
            seen_from.start // kernel.group,
            (seen_from.stop - 1) // kernel.group,
        )
        seen = min(length, max(0, last_query + 1 + offset))  # keys the last row sees
        full = min(length, max(0, first_query + offset + 1))  # keys the first row sees
        last = -(-seen // tile)
        unmasked = count if full == length else full // tile
        return Visit(axis, tile, length, 0, last, last - min(last, unmasked))
    first = max(0, seen_from.start - offset) // tile  # first query that sees the first key
    first = min(first, count) if seen_from.start - offset < length else count
    clear = max(0, seen_from.stop - 1 - offset)  # first query that sees every key
    first_clear = min(count, -(-clear // tile))
    return Visit(axis, tile, length, first, count, max(0, first_clear - first))


def visible_rows(problem: Attention) -> int:
    """Queries that see at least one key."""
    return min(problem.seqlen_q, problem.seqlen_k) if problem.causal else problem.seqlen_q


def visible_pairs(problem: Attention) -> int:
    """(query, key) pairs that the mask leaves, of one head."""
    if not problem.causal:
        return problem.seqlen_q * problem.seqlen_k
    rows = visible_rows(problem)  # the last one sees every key, each earlier one a key fewer
    return rows * problem.seqlen_k - rows * (rows - 1) // 2
