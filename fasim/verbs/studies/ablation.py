"""`fasim study ablation`: what each mechanism of the model is worth, against measurements.

A mechanism that lowers no group's error has not earned its place; one that raises a group's error
may hide that another is missing there. So both are told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasim.simulator.mechanisms import MECHANISMS, checked
from fasim.verbs.measured.measurement_file import read
from fasim.verbs.measured.measurements import Measurement
from fasim.verbs.validate import validate
from fasim.verbs.validation import Validation
from fasim.verbs.validation_statistics import Group


@dataclass(frozen=True)
class GroupChange:
    """The median |error| of one group, with all mechanisms and without one.

    Attributes:
        group: (gpu, implementation, direction).
    """

    group: tuple[str, str, str]
    median_with: float
    median_without: float

    @property
    def gain(self) -> float:
        """By how much the mechanism lowers the error; negative where it raises it."""
        return self.median_without - self.median_with

    def to_dict(self) -> dict[str, Any]:
        return {
            "group": list(self.group),
            "median_with": self.median_with,
            "median_without": self.median_without,
            "gain": self.gain,
        }


@dataclass(frozen=True)
class Ablation:
    """The errors of all rows without one mechanism; with all of them where `mechanism` is "".

    Attributes:
        best, worst: the groups whose error the mechanism lowers, and raises, most.
    """

    mechanism: str
    overall: Group
    best: GroupChange | None = None
    worst: GroupChange | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "mechanism": self.mechanism or None,
            "n": self.overall.n,
            "median_error": self.overall.median,
            "p90_error": self.overall.p90,
            "bias": self.overall.bias,
            "best": None if self.best is None else self.best.to_dict(),
            "worst": None if self.worst is None else self.worst.to_dict(),
        }


@dataclass(frozen=True)
class AblationStudy:
    """All mechanisms, then each of those studied off by itself."""

    path: Path
    rows: tuple[Ablation, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"measured": str(self.path), "rows": [row.to_dict() for row in self.rows]}


def ablation_study(
    measured: Path,
    *,
    mechanisms: Sequence[str] = (),
    rows_per_group: int | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> AblationStudy:
    """Validates once with all mechanisms, and once without each.

    Args:
        mechanisms: only without these; all of them if none is named.
        rows_per_group: only so many rows of a (gpu, implementation, direction), evenly spaced.
        progress: called with validations done and validations in all.

    Raises:
        MeasurementError: the file cannot be read, or holds no measurement with a prediction.
        UnknownMechanism: a name that is none of the mechanisms.
    """
    studied = checked(mechanisms or MECHANISMS)
    ids = _sample(measured, rows_per_group)

    def keep(row: Measurement) -> bool:
        return row.id in ids

    done: list[Ablation] = []
    whole: Validation | None = None
    for mechanism in ("", *studied):
        if progress is not None:
            progress(len(done), 1 + len(studied))
        without = (mechanism,) if mechanism else ()
        validation = validate(measured, keep=keep, processes=processes, without=without)
        whole = whole or validation
        if validation.overall is None:
            break
        changes = _changes(whole, validation) if mechanism else []
        done.append(
            Ablation(
                mechanism,
                validation.overall,
                max(changes, key=lambda change: change.gain, default=None),
                min(changes, key=lambda change: change.gain, default=None),
            )
        )
    if progress is not None:
        progress(1 + len(studied), 1 + len(studied))
    return AblationStudy(measured, tuple(done))


def _changes(whole: Validation, part: Validation) -> list[GroupChange]:
    """The groups that both have, with and without a mechanism."""
    without = {_key(group): group.median for group in part.groups}
    return [
        GroupChange(_key(group), group.median, without[_key(group)])
        for group in whole.groups
        if _key(group) in without
    ]


def _key(group: Group) -> tuple[str, str, str]:
    return group.gpu, group.implementation, group.direction


def _sample(measured: Path, rows_per_group: int | None) -> set[str]:
    groups: dict[tuple[str, str, str], list[str]] = {}
    for row in read(measured).rows:
        groups.setdefault((row.gpu, row.implementation, row.direction), []).append(row.id)
    return {
        members[(2 * place + 1) * len(members) // (2 * count)]
        for members in groups.values()
        for count in [min(len(members), rows_per_group or len(members))]
        for place in range(count)
    }
