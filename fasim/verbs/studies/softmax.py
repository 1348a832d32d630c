"""`fasim study softmax`: naive, safe and online softmax of rows × columns.

The argument that FlashAttention starts from (Milakov, Gimelshein 2018): safe softmax reads every
element three times, online softmax twice, and both survive scores whose exponential overflows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from fasim.problem import Attention, Dtype, Scenario
from fasim.readings.traffic import total
from fasim.schedules import catalog
from fasim.verbs.predict import predict
from fasim.verbs.prediction import LEVELS

if TYPE_CHECKING:
    from fasim.hardware import Gpu, Profile

# Scores of this and more: FP32's exponential overflows from 88.7 on.
LARGE_SCORES = 100.0
SAMPLE = 256  # rows and columns, at most, of the run on numbers


@dataclass(frozen=True)
class Softmax:
    """One of the three, on one GPU.

    Attributes:
        loads, stores: of an element, counted at the global level.
        bytes_at: bytes in either direction, by level; l2 and dram are modelled.
        bound: the cause that takes most of the time.
        survives: whether every result of large scores is a number.
    """

    schedule: str
    loads: float
    stores: float
    bytes_at: dict[str, int]
    time_s: float
    bound: str
    survives: bool


@dataclass(frozen=True)
class SoftmaxStudy:
    """Naive, safe and online softmax of the same scores."""

    gpu: str
    rows: int
    columns: int
    dtype: str
    scenario: Scenario
    ways: tuple[Softmax, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "gpu": self.gpu,
            "rows": self.rows,
            "columns": self.columns,
            "dtype": self.dtype,
            "scenario": asdict(self.scenario),
            "schedules": [
                {
                    "schedule": way.schedule,
                    "loads_per_element": way.loads,
                    "stores_per_element": way.stores,
                    "bytes": way.bytes_at,
                    "time_ms": way.time_s * 1e3,
                    "bound": way.bound,
                    "survives_large_scores": way.survives,
                }
                for way in self.ways
            ],
        }


def softmax_study(
    rows: int,
    columns: int,
    profile: Profile,
    scenario: Scenario | None = None,
    *,
    dtype: Dtype = "fp16",
) -> SoftmaxStudy:
    """Predicts the three schedules, and runs each on a sample of large scores.

    Raises:
        ProblemError: a side that is not positive, an unknown dtype, or scores that the GPU's
            memory does not hold.
    """
    scenario = scenario or Scenario()
    problem = Attention(1, 1, rows, columns, head_dim=1, dtype=dtype)
    return SoftmaxStudy(
        profile.resolved_name,
        rows,
        columns,
        dtype,
        scenario,
        tuple(_softmax(name, problem, profile, scenario) for name in catalog.SOFTMAXES),
    )


def _softmax(name: str, problem: Attention, profile: Profile, scenario: Scenario) -> Softmax:
    prediction = predict(problem, profile, scenario, schedule=name)
    time_s = prediction.fitting_time_s
    asked = total(prediction.traffic["global"])
    each = problem.seqlen_q * problem.seqlen_k * problem.element_bytes
    return Softmax(
        name,
        asked.read_bytes / each,
        asked.write_bytes / each,
        {level: total(prediction.traffic[level]).total_bytes for level in LEVELS},
        time_s,
        prediction.bound or "",
        survives_large_scores(name, problem, profile.gpu),
    )


def survives_large_scores(name: str, problem: Attention, gpu: Gpu) -> bool:
    """Whether the schedule's program makes numbers of normally distributed large scores."""
    # Loaded here: times need no arrays.
    import numpy as np

    from fasim.readings import numerics
    from fasim.readings.rounding import round_to

    sample = replace(
        problem, seqlen_q=min(SAMPLE, problem.seqlen_q), seqlen_k=min(SAMPLE, problem.seqlen_k)
    )
    scores = np.abs(np.random.default_rng(0).standard_normal((1, 1, sample.seqlen_q, SAMPLE)))
    s = (LARGE_SCORES * (1 + scores[..., : sample.seqlen_k])).astype(np.float32)
    planned = catalog.plan(sample, gpu, name)
    p = numerics.run(planned.kernels, {"S": round_to(s, sample.dtype)}).tensors["P"]
    return bool(np.isfinite(p).all())
