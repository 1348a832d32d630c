"""How far a prediction may be trusted: how wrong like cases were that someone measured.

Like cases share implementation, direction, architecture and regime. What validation found for
each is written to `trust.json` beside this file (`python -m tests.trust`), and shipped.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from fasim.problem import Attention

if TYPE_CHECKING:
    from fasim.hardware import Profile
    from fasim.verbs.validate import ValidatedRow

SUMMARY = Path(__file__).with_name("trust.json")
FEWEST = 3  # measured cases that make a group worth quoting
SHORT_S = 1e-4  # below, launches and the small kernels around a call weigh

Status = Literal["validated", "unvalidated", "hypothetical"]
Regime = Literal["decode", "short", "long"]


class Like(NamedTuple):
    """What makes cases alike.

    `regime`: `decode` for one query a sequence; else `short` under 0.1 ms, `long` from there.
    """

    implementation: str
    direction: str
    architecture: str
    regime: Regime


@dataclass(frozen=True)
class Trust:
    """What stands behind a predicted time.

    Attributes:
        status: `validated`: like cases were measured; `unvalidated`: none, or too few;
            `hypothetical`: the GPU is not one that could be measured.
        n: like cases measured.
        median_error, p90_error: of |predicted/measured − 1| over them; None without any.
        band_ms: between which times a measurement falls in nine of ten like cases.
    """

    status: Status
    n: int = 0
    median_error: float | None = None
    p90_error: float | None = None
    band_ms: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "n": self.n,
            "median_error": self.median_error,
            "p90_error": self.p90_error,
            "band_ms": None if self.band_ms is None else list(self.band_ms),
        }


def trust(
    problem: Attention, profile: Profile, implementation: str | None, time_s: float | None
) -> Trust:
    """What stands behind a time; a schedule without an implementation is nobody's kernel."""
    if is_hypothetical(profile):
        return Trust("hypothetical")
    if time_s is None or implementation is None:
        return Trust("unvalidated")
    like = Like(
        implementation, problem.direction, profile.gpu.architecture, regime(problem, time_s)
    )
    found = _summary().get(like)
    if found is None:
        return Trust("unvalidated")
    n, median, p90 = found
    if n < FEWEST:
        return Trust("unvalidated", n, median, p90)
    # |predicted/measured − 1| up to p90; one that may be all of it says nothing of the upper end.
    above = time_s / (1 - p90) if p90 < 1 else float("inf")
    band = (time_s / (1 + p90) * 1e3, above * 1e3)
    return Trust("validated", n, median, p90, band if p90 < 1 else None)


def is_hypothetical(profile: Profile) -> bool:
    """Whether a GPU has facts that were made up: overridden, or its number of SMs estimated."""
    made_up = profile.provenance.get("sm_count")
    return bool(profile.overrides) or (made_up is not None and made_up.kind == "estimate")


def regime(problem: Attention, time_s: float) -> Regime:
    """What decides how wrong a prediction may be, besides the kernel and the GPU."""
    if problem.seqlen_q == 1:
        return "decode"
    return "short" if time_s < SHORT_S else "long"


def summarise(rows: Iterable[ValidatedRow], architectures: dict[str, str]) -> list[dict[str, Any]]:
    """Errors of validated rows, by what makes them alike: the content of `trust.json`.

    Args:
        architectures: of each GPU, by its name.
    """
    errors: dict[Like, list[float]] = {}
    for row in rows:
        measured = row.measurement
        like = Like(
            measured.implementation,
            measured.problem.direction,
            architectures[measured.gpu],
            regime(measured.problem, row.predicted_ms / 1e3),
        )
        errors.setdefault(like, []).append(abs(row.error))
    return [
        {
            **like._asdict(),
            "n": len(sizes),
            "median_error": round(statistics.median(sizes), 4),
            "p90_error": round(_p90(sizes), 4),
        }
        for like, sizes in sorted(errors.items())
    ]


def _p90(sizes: list[float]) -> float:
    if len(sizes) == 1:
        return sizes[0]
    return statistics.quantiles(sizes, n=10, method="inclusive")[-1]


@cache
def _summary() -> dict[Like, tuple[int, float, float]]:
    groups = json.loads(SUMMARY.read_text(encoding="utf-8"))
    return {
        Like(*(group[name] for name in Like._fields)): (
            group["n"],
            group["median_error"],
            group["p90_error"],
        )
        for group in groups
    }
