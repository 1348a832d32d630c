"""The result of a validation: rows, groups, what has no prediction, and its JSON form."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fasim.verbs.measured.csv_table import UnreadableLine
from fasim.verbs.measured.measurements import Measurement
from fasim.verbs.measured.versions import modelled_by
from fasim.verbs.validation_statistics import Group, Point, groups_of, overall_of


@dataclass(frozen=True)
class ValidatedRow:
    """A measured time beside its prediction. `error` is predicted/measured − 1, signed.

    Attributes:
        fills_gpu: whether the kernel that takes longest has a block for every slot of the GPU.
    """

    measurement: Measurement
    measured_ms: float
    predicted_ms: float
    fills_gpu: bool = True

    @property
    def error(self) -> float:
        return self.predicted_ms / self.measured_ms - 1

    @property
    def point(self) -> Point:
        """The row for statistics over times."""
        return _point(self.measurement, self.measured_ms, self.predicted_ms, self.fills_gpu)

    def to_dict(self) -> dict[str, Any]:
        return {
            **_identity(self.measurement),
            "measured_ms": self.measured_ms,
            "predicted_ms": self.predicted_ms,
            "error": self.error,
            "fills_gpu": self.fills_gpu,
            **_inputs(self.measurement),
        }


@dataclass(frozen=True)
class ValidatedBytes:
    """Bytes that DRAM moved by counter, beside the modelled ones, both in 10⁹ bytes."""

    measurement: Measurement
    measured_gb: float
    predicted_gb: float

    @property
    def error(self) -> float:
        return self.predicted_gb / self.measured_gb - 1

    @property
    def point(self) -> Point:
        """The row for statistics over bytes."""
        return _point(self.measurement, self.measured_gb, self.predicted_gb)

    def to_dict(self) -> dict[str, Any]:
        return {
            **_identity(self.measurement),
            "measured_gb": self.measured_gb,
            "predicted_gb": self.predicted_gb,
            "error": self.error,
            **_inputs(self.measurement),
        }


@dataclass(frozen=True)
class UnsupportedRow:
    """A measurement without a prediction, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Validation:
    """The report.

    Attributes:
        path, sha256: the file of measurements.
        rows: times; `bytes`: DRAM bytes, of the rows that have a counter's.
        unreadable: lines of the file that are no measurements.
        operator_rows: rows of the file that measure no attention.
        without: mechanisms of the model that were switched off.
        wrong_outputs: ids of rows whose kernel gave a wrong output when it was measured.
    """

    path: Path
    sha256: str
    rows: tuple[ValidatedRow, ...]
    bytes: tuple[ValidatedBytes, ...]
    unsupported: tuple[UnsupportedRow, ...]
    unreadable: tuple[UnreadableLine, ...]
    operator_rows: int = 0
    without: tuple[str, ...] = ()
    wrong_outputs: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether nothing is wrong. An error of a time is no wrong answer, nor is a row without
        a prediction; an output that differs from the reference is."""
        return not self.wrong_outputs

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Times by (gpu, implementation, direction)."""
        return groups_of([row.point for row in self.rows])

    @cached_property
    def overall(self) -> Group | None:
        """All times; None where none was predicted."""
        return overall_of([row.point for row in self.rows])

    @cached_property
    def overall_bytes(self) -> Group | None:
        """All DRAM bytes; None where none was predicted."""
        return overall_of([row.point for row in self.bytes])

    def to_dict(self) -> dict[str, Any]:
        pairs, clear = None, None
        if self.overall is not None:
            pairs = self.overall.pairs.to_dict()
            clear = self.overall.clear_pairs.to_dict()
        return {
            "measured": {"file": str(self.path), "sha256": self.sha256},
            "without": list(self.without),
            "rows": [row.to_dict() for row in self.rows],
            "groups": [group.to_dict() for group in self.groups],
            "overall": None if self.overall is None else self.overall.to_dict(),
            "pairs": pairs,
            "pairs_over_10_percent": clear,
            "dram_bytes": {
                "rows": [row.to_dict() for row in self.bytes],
                "overall": _errors(self.overall_bytes),
            },
            "unsupported": [asdict(row) for row in self.unsupported],
            "unreadable": [asdict(line) for line in self.unreadable],
            "operator_rows": self.operator_rows,
            "wrong_outputs": list(self.wrong_outputs),
            "agrees": self.agrees,
        }


def shape_text(measurement: Measurement) -> str:
    """A problem in a few words: `4 x 16 x 1024 x 1024 d64 causal`."""
    problem = measurement.problem
    heads = f"{problem.heads}/{problem.kv_heads}"
    return (
        f"{problem.batch} x {heads if problem.kv_heads != problem.heads else problem.heads} x "
        f"{problem.seqlen_q} x {problem.seqlen_k} d{problem.head_dim}"
        f"{' causal' if problem.causal else ''}"
        f"{f' dropout {problem.dropout:g}' if problem.dropout else ''}"
    )


def _point(
    measurement: Measurement, measured: float, predicted: float, fills_gpu: bool = True
) -> Point:
    inputs: Hashable = (
        measurement.gpu,
        measurement.implementation,
        measurement.scenario,
        measurement.options,
    )
    group = (measurement.gpu, measurement.implementation, measurement.direction)
    return Point(group, measurement.problem, inputs, measured, predicted, fills_gpu)


def _identity(measurement: Measurement) -> dict[str, Any]:
    return {
        "id": measurement.id,
        "gpu": measurement.gpu,
        "implementation": measurement.implementation,
        "modelled_by": modelled_by(measurement),
        "direction": measurement.direction,
    }


def _inputs(measurement: Measurement) -> dict[str, Any]:
    """What the prediction was given beside the GPU and the implementation."""
    options = {name: value for name, value in asdict(measurement.options).items() if value}
    return {
        "problem": asdict(measurement.problem),
        "scenario": asdict(measurement.scenario),
        "options": options,
        "source": measurement.fields.get("source", ""),
    }


def _errors(group: Group | None) -> dict[str, Any] | None:
    """The statistics that make sense of bytes: no order and no slope."""
    if group is None:
        return None
    kept = ("n", "median_error", "mean_error", "p90_error", "bias")
    return {name: value for name, value in group.to_dict().items() if name in kept}
