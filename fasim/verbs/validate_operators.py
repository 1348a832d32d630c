"""`fasim validate --operators`: predicted against measured operators, by row and in groups."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fasim.hardware import ProfileError, load
from fasim.operators import Operator
from fasim.schedules.plan import Refused
from fasim.verbs.measured.csv_table import UnreadableLine
from fasim.verbs.measured.measurements import Unsupported
from fasim.verbs.measured.operator_measurements import OperatorMeasurement, read
from fasim.verbs.predict_op import predict_op
from fasim.verbs.validate import UnsupportedRow

# A time of which the host takes more says little of the GPU.
MOST_HOST_SHARE = 0.5


@dataclass(frozen=True)
class ValidatedOperator:
    """A measured operator beside its prediction. `error` is predicted/measured − 1, signed.

    Attributes:
        host_ms: of the prediction, what the host took, as the row's source states.
    """

    measurement: OperatorMeasurement
    operator: Operator
    measured_ms: float
    predicted_ms: float
    host_ms: float

    @property
    def error(self) -> float:
        return self.predicted_ms / self.measured_ms - 1

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.measurement.id,
            "gpu": self.measurement.gpu,
            "kind": self.measurement.kind,
            "operator": self.operator.name,
            "dtype": self.operator.dtype,
            **self.operator.sizes,
            "measured_ms": self.measured_ms,
            "predicted_ms": self.predicted_ms,
            "host_ms": self.host_ms,
            "error": self.error,
        }


@dataclass(frozen=True)
class OperatorGroup:
    """The rows of one GPU and kind.

    Attributes:
        median_error, p90_error: of |error|.
        bias: mean of the signed error.
    """

    gpu: str
    kind: str
    n: int
    median_error: float
    p90_error: float
    bias: float


@dataclass(frozen=True)
class OperatorValidation:
    """The report: rows, groups by GPU and kind, groups by kind, what is left out."""

    rows: tuple[ValidatedOperator, ...]
    groups: tuple[OperatorGroup, ...]
    by_kind: tuple[OperatorGroup, ...]
    unsupported: tuple[UnsupportedRow, ...]
    unreadable: tuple[UnreadableLine, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "rows": [row.to_dict() for row in self.rows],
            "groups": [asdict(group) for group in self.groups],
            "by_kind": [asdict(group) for group in self.by_kind],
            "unsupported": [asdict(row) for row in self.unsupported],
            "unreadable": [asdict(line) for line in self.unreadable],
        }


def validate_operators(
    measured: Path,
    *,
    keep: Callable[[OperatorMeasurement], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> OperatorValidation:
    """Predicts every measured operator of a file, or those that `keep` keeps.

    Args:
        progress: called with rows done and rows in all.

    Raises:
        TableError: the file cannot be read, or holds no measured operator.
    """
    file = read(measured)
    measurements = [m for m in file.rows if keep is None or keep(m)]
    rows: list[ValidatedOperator] = []
    unsupported: list[UnsupportedRow] = []
    for done, measurement in enumerate(measurements):
        if progress is not None:
            progress(done, len(measurements))
        try:
            rows.append(_validated(measurement))
        except ProfileError:
            unsupported.append(UnsupportedRow(measurement.id, f"no profile of {measurement.gpu}"))
        except (Unsupported, Refused) as reason:
            unsupported.append(UnsupportedRow(measurement.id, str(reason)))
    if progress is not None:
        progress(len(measurements), len(measurements))
    return OperatorValidation(
        tuple(rows),
        _groups(rows, lambda row: (row.measurement.gpu, row.measurement.kind)),
        _groups(rows, lambda row: ("all", row.measurement.kind)),
        tuple(unsupported),
        file.unreadable,
    )


def _validated(row: OperatorMeasurement) -> ValidatedOperator:
    operator = row.operator
    found = predict_op(operator, load(row.gpu), row.scenario)
    if found.time_s is None:
        raise Unsupported("does not fit the GPU's memory as predicted")
    measured_s = row.time_s(found.prediction.intensity.moved_bytes)
    host_s, kernels_s = row.host_floor_s, found.time_s * row.repeats
    if host_s > MOST_HOST_SHARE * (host_s + kernels_s):
        raise Unsupported(
            f"the host takes most of the time of {operator.kind} so short: "
            f"its source's times have a floor of {host_s * 1e6:.0f} us"
        )
    return ValidatedOperator(
        row, operator, measured_s * 1e3, (host_s + kernels_s) * 1e3, host_s * 1e3
    )


def _groups(
    rows: Iterable[ValidatedOperator], key_of: Callable[[ValidatedOperator], tuple[str, str]]
) -> tuple[OperatorGroup, ...]:
    members: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        members.setdefault(key_of(row), []).append(row.error)
    return tuple(
        OperatorGroup(
            *key,
            n=len(errors),
            median_error=statistics.median(abs(error) for error in errors),
            p90_error=_p90([abs(error) for error in errors]),
            bias=statistics.fmean(errors),
        )
        for key, errors in sorted(members.items())
    )


def _p90(sizes: list[float]) -> float:
    """Linear interpolation between the two nearest, as the report of attention's rows has it."""
    return statistics.quantiles(sizes * 2 if len(sizes) == 1 else sizes, n=10, method="inclusive")[
        8
    ]
