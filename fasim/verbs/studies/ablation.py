"""`fasim study ablation`: what each mechanism of the model is worth, against measurements.

A mechanism that lowers no group's error has not earned its place; one that raises a group's error
may hide that another is missing there. So both are told.

A group holds like cases: a causal call and a full one are two, since what acts on masked tiles
alone would be lost in the median of both.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fasim.simulator.mechanisms import MECHANISMS, checked
from fasim.verbs.measured.measurement_file import read
from fasim.verbs.measured.measurements import Measurement, Unsupported
from fasim.verbs.validate import validate
from fasim.verbs.validation import Validation
from fasim.verbs.validation_statistics import Group

GroupKey = tuple[str, str, str, str]


@dataclass(frozen=True)
class GroupChange:
    """The median |error| of one group, with all mechanisms and without one.

    Attributes:
        group: (gpu, implementation, direction, `causal` or `full`).
        n: its rows.
    """

    group: GroupKey
    n: int
    median_with: float
    median_without: float

    @property
    def gain(self) -> float:
        """By how much the mechanism lowers the error; negative where it raises it."""
        return self.median_without - self.median_with

    def to_dict(self) -> dict[str, Any]:
        return {
            "group": list(self.group),
            "n": self.n,
            "median_with": self.median_with,
            "median_without": self.median_without,
            "gain": self.gain,
        }


@dataclass(frozen=True)
class Ablation:
    """The errors of all rows without one mechanism; with all of them where `mechanism` is "".

    Attributes:
        groups: what the mechanism does to each; empty where it is "".
    """

    mechanism: str
    overall: Group
    groups: tuple[GroupChange, ...] = ()

    @cached_property
    def best(self) -> GroupChange | None:
        """The group whose error the mechanism lowers most."""
        return max(self.groups, key=lambda change: change.gain, default=None)

    @cached_property
    def worst(self) -> GroupChange | None:
        """The group whose error it raises most."""
        return min(self.groups, key=lambda change: change.gain, default=None)

    def to_dict(self) -> dict[str, Any]:
        return {
            "mechanism": self.mechanism or None,
            "n": self.overall.n,
            "median_error": self.overall.median,
            "p90_error": self.overall.p90,
            "bias": self.overall.bias,
            "best": None if self.best is None else self.best.to_dict(),
            "worst": None if self.worst is None else self.worst.to_dict(),
            "groups": [change.to_dict() for change in self.groups],
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
        rows_per_group: only so many rows of each group, evenly spaced.
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
        changes = _changes(whole, validation) if mechanism else ()
        done.append(Ablation(mechanism, validation.overall, changes))
    if progress is not None:
        progress(1 + len(studied), 1 + len(studied))
    return AblationStudy(measured, tuple(done))


def _changes(whole: Validation, part: Validation) -> tuple[GroupChange, ...]:
    """The groups that both have, with and without a mechanism."""
    before, after = _errors(whole), _errors(part)
    return tuple(
        GroupChange(
            group, len(before[group]), statistics.median(before[group]), statistics.median(sizes)
        )
        for group, sizes in sorted(after.items())
        if group in before
    )


def _errors(validation: Validation) -> dict[GroupKey, list[float]]:
    """|error| of the rows of each group."""
    errors: dict[GroupKey, list[float]] = {}
    for row in validation.rows:
        errors.setdefault(_group(row.measurement), []).append(abs(row.error))
    return errors


def _group(row: Measurement) -> GroupKey:
    """The group of a measurement.

    Raises:
        Unsupported: a problem that cannot be.
    """
    mask = "causal" if row.problem.causal else "full"
    return row.gpu, row.implementation, row.direction, mask


def _sample(measured: Path, rows_per_group: int | None) -> set[str]:
    groups: dict[GroupKey, list[str]] = {}
    for row in read(measured).rows:
        with suppress(Unsupported):  # no prediction either
            groups.setdefault(_group(row), []).append(row.id)
    return {
        members[(2 * place + 1) * len(members) // (2 * count)]
        for members in groups.values()
        for count in [min(len(members), rows_per_group or len(members))]
        for place in range(count)
    }
