"""`fasim study scaling`: the schedules against the length of the sequence.

As in the FlashAttention papers' benchmarks the number of tokens stays: a longer sequence means a
smaller batch, of one sequence at least.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from fasim.problem import Attention, Scenario
from fasim.schedules.plan import Refused
from fasim.verbs.predict import predict

if TYPE_CHECKING:
    from fasim.hardware import Profile

SCHEDULES = ("standard", "flash1", "flash2", "flash3")
LENGTHS = tuple(128 * 2**doubling for doubling in range(10))  # 128 … 64 K
TOKENS = 16384


@dataclass(frozen=True)
class Scaled:
    """One schedule at one length.

    Attributes:
        time_s: None where device memory does not hold the chain.
    """

    schedule: str
    seqlen: int
    batch: int
    peak_bytes: int
    time_s: float | None
    tflops_per_s: float | None


@dataclass(frozen=True)
class ScalingStudy:
    """Schedules over the length of the sequence, on one GPU.

    Attributes:
        problem: with the batch and length of the first row.
        refused: schedules the GPU cannot run, and why.
    """

    gpu: str
    capacity_bytes: int
    problem: Attention
    tokens: int
    scenario: Scenario
    rows: tuple[Scaled, ...]
    refused: dict[str, str]

    @property
    def schedules(self) -> tuple[str, ...]:
        """Those that run, in order."""
        return tuple(dict.fromkeys(row.schedule for row in self.rows))

    def at(self, schedule: str, seqlen: int) -> Scaled:
        """The row of a schedule at a length."""
        return next(r for r in self.rows if (r.schedule, r.seqlen) == (schedule, seqlen))

    def out_of_memory(self, schedule: str) -> int | None:
        """The first length that device memory does not hold."""
        lengths = [r.seqlen for r in self.rows if r.schedule == schedule and r.time_s is None]
        return min(lengths, default=None)

    def to_dict(self) -> dict[str, Any]:
        return {
            "gpu": self.gpu,
            "capacity_bytes": self.capacity_bytes,
            "tokens": self.tokens,
            "problem": asdict(self.problem),
            "scenario": asdict(self.scenario),
            "rows": [
                {
                    "schedule": row.schedule,
                    "seqlen": row.seqlen,
                    "batch": row.batch,
                    "time_ms": None if row.time_s is None else row.time_s * 1e3,
                    "tflops_per_s": row.tflops_per_s,
                    "peak_bytes": row.peak_bytes,
                    "fits": row.time_s is not None,
                }
                for row in self.rows
            ],
            "out_of_memory_from": {name: self.out_of_memory(name) for name in self.schedules},
            "refused": [
                {"schedule": name, "reason": reason} for name, reason in self.refused.items()
            ],
        }


def scaling_study(
    problem: Attention,
    profile: Profile,
    scenario: Scenario | None = None,
    *,
    tokens: int = TOKENS,
    lengths: tuple[int, ...] = LENGTHS,
    progress: Callable[[int, int], None] | None = None,
) -> ScalingStudy:
    """Predicts standard attention and FlashAttention-1, -2 and -3 over the sequence's length.

    Args:
        problem: its batch and lengths are not used.
        tokens: batch × length, as long as that leaves a whole sequence.
        progress: called with predictions done and in all.
    """
    scenario = scenario or Scenario()
    sized = [replace(problem, batch=max(1, tokens // n), seqlen_q=n, seqlen_k=n) for n in lengths]
    rows: list[Scaled] = []
    refused: dict[str, str] = {}
    steps = [(name, each) for name in SCHEDULES for each in sized]
    for done, (name, each) in enumerate(steps):
        if progress is not None:
            progress(done, len(steps))
        if name in refused:
            continue
        try:
            found = predict(each, profile, scenario, schedule=name)
        except Refused as refusal:
            refused[name] = refusal.reason
            continue
        rows.append(
            Scaled(
                name,
                each.seqlen_k,
                each.batch,
                found.footprint.peak_bytes,
                found.time_s,
                found.tflops_per_s,
            )
        )
    if progress is not None:
        progress(len(steps), len(steps))
    return ScalingStudy(
        profile.resolved_name,
        profile.gpu.dram.capacity_bytes,
        sized[0],
        tokens,
        scenario,
        tuple(rows),
        refused,
    )
