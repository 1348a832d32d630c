"""The numerical error of a schedule: its program run on a sample of the problem."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fasim.problem import Attention
from fasim.schedules import catalog

if TYPE_CHECKING:
    from fasim.hardware import Gpu

SAMPLE = 256  # queries and keys, at most: one head of that size runs in milliseconds


@dataclass(frozen=True)
class Accuracy:
    """Largest error of O against float64, on a sample.

    Attributes:
        reference_error: the same of plain attention rounded to the dtype at every step: the
            yardstick; a schedule is right if it errs at most twice as much, plus rounding.
        seqlen_q, seqlen_k: of the sample.
    """

    max_error: float
    reference_error: float
    seqlen_q: int
    seqlen_k: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "max_error": self.max_error,
            "reference_error": self.reference_error,
            "sample": {"heads": 1, "seqlen_q": self.seqlen_q, "seqlen_k": self.seqlen_k},
        }


def accuracy(
    problem: Attention, gpu: Gpu, schedule: str, implementation: str | None = None
) -> Accuracy:
    """Runs one head of at most 256 × 256 of the problem, with normally distributed inputs.

    Raises:
        Refused: as `catalog.plan` does.
    """
    # Loaded here: a prediction without its error needs no arrays.
    import numpy as np

    from fasim.readings import numerics, reference

    sample = replace(
        problem,
        batch=1,
        heads=1,
        kv_heads=1,
        seqlen_q=min(SAMPLE, problem.seqlen_q),
        seqlen_k=min(SAMPLE, problem.seqlen_k),
    )
    planned = catalog.plan(sample, gpu, schedule, implementation)
    inputs = numerics.random_inputs(sample)
    q, k, v = inputs["Q"], inputs["K"], inputs["V"]
    output = numerics.run(planned.kernels, inputs).tensors["O"]
    exact, _ = reference.attention(sample, q, k, v)
    plain = reference.attention_in(sample, q, k, v)
    return Accuracy(
        float(np.abs(output - exact).max()),
        float(np.abs(plain - exact).max()),
        sample.seqlen_q,
        sample.seqlen_k,
    )
