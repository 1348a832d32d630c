"""`fasim validate`: predicted against measured times, row by row and in groups."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations
from math import log
from pathlib import Path
from typing import Any

from fasim.hardware import ProfileError, load
from fasim.schedules.plan import Refused
from fasim.verbs.measurements import Measurement, Unsupported, read
from fasim.verbs.predict import predict
from fasim.verbs.versions import modelled_by

GroupKey = tuple[str, str, str]
# Two measurements of one problem that differ by less are not asked to be in order.
CLEARLY_DIFFERENT = 0.10


@dataclass(frozen=True)
class ValidatedRow:
    """A measured time beside its prediction. `error` is predicted/measured − 1, signed."""

    measurement: Measurement
    measured_ms: float
    predicted_ms: float

    @property
    def error(self) -> float:
        return self.predicted_ms / self.measured_ms - 1

    def to_dict(self) -> dict[str, Any]:
        measured = self.measurement
        return {
            "id": measured.id,
            "gpu": measured.gpu,
            "implementation": measured.implementation,
            "modelled_by": modelled_by(measured),
            "direction": measured.direction,
            "measured_ms": self.measured_ms,
            "predicted_ms": self.predicted_ms,
            "error": self.error,
        }


@dataclass(frozen=True)
class Group:
    """The rows of one GPU, implementation and direction.

    Attributes:
        median, mean, p90: of |error|.
        bias: mean of the signed error.
        slope: log-log slope of predicted over measured time; 1 is right over all sizes. None
            with fewer than three sizes.
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

    def to_dict(self) -> dict[str, Any]:
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
        }


@dataclass(frozen=True)
class UnsupportedRow:
    """A measurement without a prediction, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Validation:
    """The report: rows, groups, the overall group, what could not be predicted.

    Attributes:
        ordered, pairs: of pairs of one problem whose measured times differ by over 10 %, how
            many are predicted in the right order.
    """

    rows: tuple[ValidatedRow, ...]
    groups: tuple[Group, ...]
    overall: Group | None
    unsupported: tuple[UnsupportedRow, ...]
    ordered: int
    pairs: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "rows": [row.to_dict() for row in self.rows],
            "groups": [group.to_dict() for group in self.groups],
            "overall": None if self.overall is None else self.overall.to_dict(),
            "pairs": {"compared": self.pairs, "ordered": self.ordered},
            "unsupported": [{"id": row.id, "reason": row.reason} for row in self.unsupported],
        }


def validate(
    measured: Path,
    *,
    keep: Callable[[Measurement], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Validation:
    """Predicts every measurement of a file, or those that `keep` keeps.

    `launch` and `l2` of a row are inputs of its prediction, never guessed. A row whose
    `software` is a version with kernels of its own is predicted by these.

    Args:
        progress: called with rows done and rows in all.

    Raises:
        MeasurementError: the file cannot be read.
    """
    measurements = [m for m in read(measured) if keep is None or keep(m)]
    rows: list[ValidatedRow] = []
    unsupported: list[UnsupportedRow] = []
    for done, measurement in enumerate(measurements):
        if progress is not None:
            progress(done, len(measurements))
        try:
            rows.append(_validated(measurement))
        except (Unsupported, Refused, ProfileError) as reason:
            unsupported.append(UnsupportedRow(measurement.id, str(reason)))
    if progress is not None:
        progress(len(measurements), len(measurements))
    ordered, pairs = _ordered_pairs(rows)
    return Validation(
        tuple(rows),
        tuple(_groups(rows)),
        _group(("all", "all", "all"), rows) if rows else None,
        tuple(unsupported),
        ordered,
        pairs,
    )


def _validated(measurement: Measurement) -> ValidatedRow:
    if measurement.time_ms is None:
        raise Unsupported("no time: bytes only")
    prediction = predict(
        measurement.problem,
        load(measurement.gpu),
        measurement.scenario,
        implementation=modelled_by(measurement),
        options=measurement.options,
    )
    if prediction.time_s is None:
        raise Unsupported("does not fit the GPU's memory as predicted")
    return ValidatedRow(measurement, measurement.time_ms, prediction.time_s * 1e3)


def _groups(rows: Iterable[ValidatedRow]) -> list[Group]:
    members: dict[GroupKey, list[ValidatedRow]] = {}
    for row in rows:
        measured = row.measurement
        key = (measured.gpu, measured.implementation, measured.direction)
        members.setdefault(key, []).append(row)
    return [_group(key, members[key]) for key in sorted(members)]


def _group(key: GroupKey, rows: list[ValidatedRow]) -> Group:
    errors = [row.error for row in rows]
    sizes = sorted(abs(error) for error in errors)
    return Group(
        *key,
        n=len(rows),
        median=statistics.median(sizes),
        mean=statistics.fmean(sizes),
        p90=_percentile(sizes, 0.9),
        bias=statistics.fmean(errors),
        slope=_slope(rows),
    )


def _percentile(ordered: list[float], share: float) -> float:
    """Linear interpolation between the two nearest of ordered values."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def _slope(rows: list[ValidatedRow]) -> float | None:
    measured = [log(row.measured_ms) for row in rows]
    if len(set(measured)) < 3:
        return None
    predicted = [log(row.predicted_ms) for row in rows]
    return statistics.linear_regression(measured, predicted).slope


def _ordered_pairs(rows: list[ValidatedRow]) -> tuple[int, int]:
    """(pairs in the right order, pairs that differ clearly) among rows of the same problem."""
    same: dict[object, list[ValidatedRow]] = {}
    for row in rows:
        same.setdefault(row.measurement.problem, []).append(row)
    ordered = pairs = 0
    for members in same.values():
        for a, b in combinations(members, 2):
            ratio = a.measured_ms / b.measured_ms
            if max(ratio, 1 / ratio) > 1 + CLEARLY_DIFFERENT:
                pairs += 1
                ordered += (ratio > 1) == (a.predicted_ms > b.predicted_ms)
    return ordered, pairs
