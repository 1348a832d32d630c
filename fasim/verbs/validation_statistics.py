"""Errors of many rows in a few numbers: their size, their sign, the order, the slope.

An error is predicted/measured − 1, signed. Statistics of |error| say how far predictions are
off, the bias to which side. Two figures look at how time moves instead: whether of two ways to
run one problem the faster is predicted faster, and how much predicted time more work costs for
a unit of measured time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

# Two measurements of one problem that differ by less are within each other's scatter.
CLEARLY_DIFFERENT = 0.10
FEWEST_SIZES = 3  # of a slope: two points lie on a line whatever the model does

GroupKey = tuple[str, str, str]


@dataclass(frozen=True)
class Point:
    """One row as statistics see it.

    Attributes:
        group: (gpu, implementation, direction).
        problem: rows that are equal in it ran the same problem.
        inputs: all else that the prediction was given; rows equal in both are repetitions.
        fills_gpu: whether the kernel that takes longest has a block for every slot of the GPU.
    """

    group: GroupKey
    problem: Hashable
    inputs: Hashable
    measured: float
    predicted: float
    fills_gpu: bool = True

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class Pairs:
    """Of pairs of rows, how many are predicted in the order that was measured."""

    compared: int
    ordered: int

    @property
    def share(self) -> float | None:
        return self.ordered / self.compared if self.compared else None

    def to_dict(self) -> dict[str, float | None]:
        return {"compared": self.compared, "ordered": self.ordered, "share": self.share}


@dataclass(frozen=True)
class Group:
    """The rows of one GPU, implementation and direction.

    Attributes:
        median, mean, p90: of |error|.
        bias: mean of the signed error.
        slope: least-squares slope, with an intercept, of predicted against measured time over
            the `filling` rows that fill the GPU; 1 is right whatever a launch costs. None with
            fewer than three sizes.
        pairs: of the same problem run in two ways, one of them of this group; two ways have
            another GPU, implementation, launch, L2 state or extras.
        clear_pairs: those that differ by over 10 % measured.
    """

    gpu: str
    implementation: str
    direction: str
    n: int
    median: float
    mean: float
    p90: float
    bias: float
    slope: float | None
    filling: int
    pairs: Pairs
    clear_pairs: Pairs

    def to_dict(self) -> dict[str, object]:
        return {
            "gpu": self.gpu,
            "implementation": self.implementation,
            "direction": self.direction,
            "n": self.n,
            "median_error": self.median,
            "mean_error": self.mean,
            "p90_error": self.p90,
            "bias": self.bias,
            "slope": self.slope,
            "rows_that_fill_the_gpu": self.filling,
            "pairs": self.pairs.to_dict(),
            "pairs_over_10_percent": self.clear_pairs.to_dict(),
        }


def groups_of(points: Sequence[Point]) -> tuple[Group, ...]:
    """A group for every (gpu, implementation, direction), in their order."""
    members: dict[GroupKey, list[Point]] = {}
    for point in points:
        members.setdefault(point.group, []).append(point)
    pairs = pairs_of(points)
    return tuple(
        _group(key, members[key], [pair for pair in pairs if _concerns(pair, key)])
        for key in sorted(members)
    )


def overall_of(points: Sequence[Point]) -> Group | None:
    """All rows as one group; None without any."""
    if not points:
        return None
    return _group(("all", "all", "all"), points, pairs_of(points))


def pairs_of(points: Iterable[Point]) -> list[tuple[Point, Point]]:
    """Rows of the same problem run in two ways, whose measured times differ."""
    same: dict[Hashable, list[Point]] = {}
    for point in points:
        same.setdefault(point.problem, []).append(point)
    return [
        (a, b)
        for members in same.values()
        for a, b in combinations(members, 2)
        if a.inputs != b.inputs and a.measured != b.measured
    ]


def is_ordered(a: Point, b: Point) -> bool:
    """Whether the faster of two rows is predicted faster; a tie is no order."""
    if a.predicted == b.predicted:
        return False
    return (a.predicted > b.predicted) == (a.measured > b.measured)


def differ_clearly(a: Point, b: Point) -> bool:
    """Whether two measured times differ by over 10 %."""
    low, high = sorted((a.measured, b.measured))
    return high > low * (1 + CLEARLY_DIFFERENT)


def percentile(values: Iterable[float], share: float) -> float:
    """Linear interpolation between the two nearest of the values; `share` from 0 to 1."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def slope_of(points: Iterable[Point]) -> float | None:
    """Least-squares slope, with an intercept, of predicted against measured over the rows that
    fill the GPU; None with fewer than three measured sizes of them.

    Smaller rows are left out: their time is latency, and hardly moves with size.
    """
    filling = [point for point in points if point.fills_gpu]
    measured = [point.measured for point in filling]
    if len(set(measured)) < FEWEST_SIZES:
        return None
    return statistics.linear_regression(measured, [point.predicted for point in filling]).slope


def _concerns(pair: tuple[Point, Point], key: GroupKey) -> bool:
    return any(point.group == key for point in pair)


def _group(key: GroupKey, points: Sequence[Point], pairs: list[tuple[Point, Point]]) -> Group:
    errors = [point.error for point in points]
    sizes = [abs(error) for error in errors]
    return Group(
        *key,
        n=len(points),
        median=statistics.median(sizes),
        mean=statistics.fmean(sizes),
        p90=percentile(sizes, 0.9),
        bias=statistics.fmean(errors),
        slope=slope_of(points),
        filling=sum(point.fills_gpu for point in points),
        pairs=_count(pairs, lambda *_: True),
        clear_pairs=_count(pairs, differ_clearly),
    )


def _count(pairs: list[tuple[Point, Point]], keep: Callable[[Point, Point], bool]) -> Pairs:
    kept = [pair for pair in pairs if keep(*pair)]
    return Pairs(len(kept), sum(is_ordered(*pair) for pair in kept))
