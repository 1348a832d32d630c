"""Which tiles a loop visits: the one place that knows causal skipping.

Arithmetic only; numerics decides the same question by looking at the mask itself, so that
the two can contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
    """

    axis: str
    tile: int
    length: int
    first: int
    last: int
    masked: int

    @property
    def trips(self) -> int:
        """Tiles visited."""
        return self.last - self.first

    @property
    def rows(self) -> int:
        """Rows of all visited tiles, clipped."""
        return min(self.last * self.tile, self.length) - self.first * self.tile if self.trips else 0

    def spans(self) -> Iterator[Span]:
        """The rows of each visited tile, clipped."""
        for tile in range(self.first, self.last):
            yield Span(tile * self.tile, min((tile + 1) * self.tile, self.length))


def spans(kernel: Kernel, axis: str) -> Iterator[Span]:
    """The tiles of a whole axis."""
    length, tile = kernel.lengths[axis], kernel.tile(axis)
    for start in range(0, length, tile):
        yield Span(start, min(start + tile, length))


def visit(kernel: Kernel, loop: Loop, seen_from: Span | None) -> Visit:
    """The tiles of `loop` that the rows `seen_from` see; all tiles where nothing hides any."""
    axis, tile, length = loop.axis, kernel.tile(loop.axis), kernel.lengths[loop.axis]
    count = -(-length // tile)
    if loop.seen_from is None or seen_from is None or not kernel.problem.causal:
        return Visit(axis, tile, length, 0, count, 0)
    # Row q sees key k if k ≤ q + offset (bottom-right alignment).
    offset = kernel.lengths["k"] - kernel.lengths["q"]
    if axis == "k":
        seen = min(length, max(0, seen_from.stop + offset))  # keys the last row sees
        full = min(length, max(0, seen_from.start + offset + 1))  # keys the first row sees
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
