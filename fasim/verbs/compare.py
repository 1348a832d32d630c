"""`fasim compare`: schedules and GPUs side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fasim.problem import Attention, Scenario
from fasim.readings.accuracy import Accuracy, accuracy
from fasim.schedules import catalog
from fasim.schedules.plan import Options, Refused
from fasim.verbs.predict import predict
from fasim.verbs.prediction import Prediction

if TYPE_CHECKING:
    from fasim.hardware import Profile


@dataclass(frozen=True)
class Refusal:
    """A schedule that a GPU cannot run, and why."""

    gpu: str
    schedule: str
    reason: str


@dataclass(frozen=True)
class Row:
    """One prediction of a comparison, beside its numerical error.

    Attributes:
        speedup: time of the first prediction on the same GPU over this one's.
        memory_ratio: peak memory of the first over this one's.
        global_ratio: bytes at the global level of the first over this one's.
    """

    prediction: Prediction
    accuracy: Accuracy
    speedup: float | None
    memory_ratio: float
    global_ratio: float


@dataclass(frozen=True)
class Comparison:
    """Predictions of one problem, and what could not be predicted."""

    rows: tuple[Row, ...]
    refused: tuple[Refusal, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "predictions": [
                {
                    **row.prediction.to_dict(sensitivity=False),
                    "numerical_error": row.accuracy.to_dict(),
                    "ratios": {
                        "speedup": row.speedup,
                        "memory": row.memory_ratio,
                        "global_bytes": row.global_ratio,
                    },
                }
                for row in self.rows
            ],
            "refused": [
                {"gpu": refusal.gpu, "schedule": refusal.schedule, "reason": refusal.reason}
                for refusal in self.refused
            ],
        }


def compare(
    problem: Attention,
    profiles: Sequence[Profile],
    scenario: Scenario | None = None,
    *,
    schedules: Sequence[str] = (),
    implementations: Sequence[str] = (),
    options: Options | None = None,
    everything: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Predicts every schedule on every GPU; those that suit the problem if none is named.

    What a GPU cannot run, or has no such option, is listed as refused; what a GPU cannot hold
    stays with `fits` false.

    Args:
        options: tile, splits of the keys and so on, instead of each schedule's own.
        everything: every schedule and every implementation that suits the problem.
        progress: called with predictions done and predictions in all.

    Raises:
        Refused: an unknown schedule or implementation.
    """
    names: list[tuple[str | None, str | None]] = [(name, None) for name in schedules]
    names += [(None, name) for name in implementations]
    for name in schedules:
        catalog.find(name, catalog.NAMED_SCHEDULES, "schedule")
    for name in implementations:
        catalog.find(name, catalog.IMPLEMENTATIONS, "implementation")
    if everything or not names:
        names += [(name, None) for name in catalog.usual_schedules(problem)]
    if everything:
        names += [(None, name) for name in catalog.usual_implementations(problem)]
    names = list(dict.fromkeys(names))
    rows: list[Row] = []
    refused: list[Refusal] = []
    for profile in profiles:
        first: Prediction | None = None
        for schedule, implementation in names:
            if progress is not None:
                progress(len(rows) + len(refused), len(names) * len(profiles))
            try:
                prediction = predict(
                    problem,
                    profile,
                    scenario,
                    schedule=schedule,
                    implementation=implementation,
                    options=options,
                )
            except Refused as refusal:
                refused.append(Refusal(profile.resolved_name, refusal.name, refusal.reason))
                continue
            first = first or prediction
            rows.append(_row(prediction, first, profile, options))
    if progress is not None:
        progress(len(names) * len(profiles), len(names) * len(profiles))
    return Comparison(tuple(rows), tuple(refused))


def _row(
    prediction: Prediction, first: Prediction, profile: Profile, options: Options | None
) -> Row:
    both = prediction.time_s is not None and first.time_s is not None
    return Row(
        prediction,
        accuracy(
            prediction.problem,
            profile.gpu,
            None if prediction.implementation else prediction.schedule,
            prediction.implementation,
            options,
        ),
        speedup=first.time_s / prediction.time_s if both else None,  # type: ignore[operator]
        memory_ratio=first.footprint.peak_bytes / prediction.footprint.peak_bytes,
        global_ratio=_global_bytes(first) / _global_bytes(prediction),
    )


def _global_bytes(prediction: Prediction) -> int:
    return sum(access.total_bytes for access in prediction.traffic["global"].values())
