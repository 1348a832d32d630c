"""The numerical error of a schedule: its program run on a sample of the problem."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fasim.problem import Attention
from fasim.schedules import catalog

if TYPE_CHECKING:
    from fasim.hardware import Gpu
    from fasim.readings.rounding import Array
    from fasim.schedules.plan import Options, Plan

SAMPLE = 256  # queries and keys, at most: one head of that size runs in milliseconds


@dataclass(frozen=True)
class Accuracy:
    """Largest error against float64, on a sample: of O, or of dQ, dK and dV, or of all four.

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
    problem: Attention,
    gpu: Gpu,
    schedule: str | None,
    implementation: str | None = None,
    options: Options | None = None,
) -> Accuracy:
    """Runs one head of at most 256 × 256 of the problem, with normally distributed inputs.

    Softmax alone takes the scores of Q and K; its error is that of P.

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
    planned = catalog.plan(sample, gpu, schedule, implementation, options)
    inputs = numerics.random_inputs(sample)
    if planned.schedule in catalog.SOFTMAXES:
        return _softmax_accuracy(planned, inputs)
    q, k, v = inputs["Q"], inputs["K"], inputs["V"]
    tensors = numerics.run(planned.kernels, inputs).tensors
    names: list[str] = []
    exact: list[reference.Float64] = []
    plain: list[Array] = []
    if sample.direction != "backward":
        names.append("O")
        exact.append(reference.attention(sample, q, k, v)[0])
        plain.append(reference.attention_in(sample, q, k, v))
    if sample.direction != "forward":
        names += ["dQ", "dK", "dV"]
        exact += reference.gradients(sample, q, k, v, inputs["dO"])
        plain += reference.gradients_in(sample, q, k, v, inputs["dO"])
    outputs = [tensors[name] for name in names]
    return Accuracy(
        max(float(np.abs(a - b).max()) for a, b in zip(outputs, exact, strict=True)),
        max(float(np.abs(a - b).max()) for a, b in zip(plain, exact, strict=True)),
        sample.seqlen_q,
        sample.seqlen_k,
    )


def _softmax_accuracy(planned: Plan, inputs: dict[str, Array]) -> Accuracy:
    import numpy as np

    from fasim.readings import numerics, reference
    from fasim.readings.rounding import round_to

    problem = planned.kernels[0].problem
    q, k = inputs["Q"], inputs["K"]
    s = round_to(q @ k.swapaxes(-1, -2) * np.float32(problem.scale), problem.dtype)
    exact = reference.softmax_of(s)
    p = numerics.run(planned.kernels, {"S": s}).tensors["P"]
    plain = round_to(exact.astype(np.float32), problem.dtype)
    return Accuracy(
        float(np.abs(p - exact).max()),
        float(np.abs(plain - exact).max()),
        problem.seqlen_q,
        problem.seqlen_k,
    )
