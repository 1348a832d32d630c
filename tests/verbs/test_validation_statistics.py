"""Statistics of errors: small cases by hand, and what holds for any rows."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasim.verbs.validation_statistics import (
    Group,
    Pairs,
    Point,
    groups_of,
    is_ordered,
    overall_of,
    pairs_of,
    percentile,
    slope_of,
)

A, B = ("a100", "flash-attn-2", "fwd"), ("a100", "pytorch", "fwd")
TIMES = st.floats(1e-3, 1e3)
POINTS = st.lists(
    st.builds(
        Point,
        group=st.sampled_from([A, B]),
        problem=st.integers(0, 3),
        inputs=st.integers(0, 2),
        measured=TIMES,
        predicted=TIMES,
        fills_gpu=st.booleans(),
    ),
    min_size=1,
    max_size=20,
)


def point(measured: float, predicted: float, **changes: object) -> Point:
    return replace(Point(A, 0, 0, measured, predicted), **changes)  # type: ignore[arg-type]


def overall(points: list[Point]) -> Group:
    group = overall_of(points)
    assert group is not None
    return group


def test_errors_by_hand() -> None:
    group = overall([point(1.0, 1.1), point(1.0, 0.8), point(2.0, 2.0), point(4.0, 6.0)])
    assert group.n == 4
    assert group.median == pytest.approx(0.15)  # of 0, 0.1, 0.2, 0.5
    assert group.mean == pytest.approx(0.2)
    assert group.p90 == pytest.approx(0.41)  # 0.7 of the way from 0.2 to 0.5
    assert group.bias == pytest.approx(0.1)


def test_without_rows_there_is_nothing() -> None:
    assert overall_of([]) is None
    assert groups_of([]) == ()


def test_a_constant_cost_and_small_rows_do_not_move_the_slope() -> None:
    """Twice the time for the same work, and 5 of launch, is a slope of 2."""
    filling = [point(time, 2 * time + 5) for time in (1.0, 2.0, 7.0)]
    assert slope_of(filling) == pytest.approx(2)
    assert slope_of([*filling, point(0.1, 90.0, fills_gpu=False)]) == pytest.approx(2)
    assert slope_of(filling[:2]) is None
    assert slope_of([*filling[:2], filling[1]]) is None  # two sizes, three rows


def test_pairs_are_of_one_problem_run_in_two_ways() -> None:
    fast, slow = point(1.0, 1.0, inputs="x"), point(2.0, 1.5, inputs="y", group=B)
    assert pairs_of([fast, slow]) == [(fast, slow)]
    assert pairs_of([fast, replace(slow, problem=1)]) == []
    assert pairs_of([fast, replace(slow, inputs="x")]) == []  # the same, measured twice
    assert pairs_of([fast, replace(slow, measured=1.0)]) == []  # no order was measured
    assert not is_ordered(fast, replace(slow, predicted=1.0))  # a tie is no order


def test_a_group_has_the_pairs_that_one_of_its_rows_is_in() -> None:
    rows = [
        point(1.0, 1.0, inputs="x"),
        point(2.0, 0.5, inputs="y", group=B),
        point(1.05, 1.2, inputs="z", group=B),
    ]
    of_a, of_b = groups_of(rows)
    assert (of_a.pairs, of_a.clear_pairs) == (Pairs(2, 1), Pairs(1, 0))
    assert (of_b.pairs, of_b.clear_pairs) == (Pairs(3, 1), Pairs(2, 0))
    assert overall(rows).pairs == of_b.pairs
    assert of_a.pairs.share == 0.5
    assert Pairs(0, 0).share is None


@given(POINTS)
def test_bounds_hold(points: list[Point]) -> None:
    group = overall(points)
    sizes = [abs(p.error) for p in points]
    assert min(sizes) <= group.median <= max(sizes)
    assert group.median <= group.p90 * (1 + 1e-12)
    assert abs(group.bias) <= group.mean * (1 + 1e-12) + 1e-15
    assert 0 <= group.clear_pairs.compared <= group.pairs.compared
    for pairs in (group.pairs, group.clear_pairs):
        assert 0 <= pairs.ordered <= pairs.compared
    assert sum(g.n for g in groups_of(points)) == group.n
    assert group.filling == sum(p.fills_gpu for p in points)


@given(POINTS, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(points: list[Point], random: object) -> None:
    shuffled = list(points)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = overall(points), overall(shuffled)
    assert (one.n, one.median, one.p90) == (other.n, other.median, other.p90)
    assert (one.pairs, one.clear_pairs) == (other.pairs, other.clear_pairs)
    assert one.bias == pytest.approx(other.bias)


@given(POINTS)
def test_predictions_that_are_right_have_no_error_and_every_order(points: list[Point]) -> None:
    group = overall([replace(p, predicted=p.measured) for p in points])
    assert group.median == group.mean == group.p90 == group.bias == 0
    assert group.pairs.ordered == group.pairs.compared
    assert group.slope is None or group.slope == pytest.approx(1, abs=1e-6)


@given(POINTS)
def test_exchanging_prediction_and_measurement_keeps_the_order(points: list[Point]) -> None:
    for a, b in combinations(points, 2):
        if a.measured != b.measured and a.predicted != b.predicted:
            swapped = [replace(p, measured=p.predicted, predicted=p.measured) for p in (a, b)]
            assert is_ordered(a, b) == is_ordered(*swapped) == is_ordered(b, a)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_lies_among_the_values(values: list[float], share: float) -> None:
    low, high = min(values), max(values)
    slack = 1e-9 * max(1.0, abs(low), abs(high))
    assert low - slack <= percentile(values, share) <= high + slack
    assert percentile(values, 0) == low
    assert percentile(values, 1) == high
