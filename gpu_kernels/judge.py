"""Whether outputs of attention are right: each beside its reference, by the tolerance rule."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gpu_kernels import reference

Tensor = torch.Tensor
# LSE comes in FP32 of exact products: d additions, and one rounding of exp2's argument.
LSE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Output:
    """The largest error of an output against float64, and what the rule allows it."""

    error: float
    tolerance: float

    @property
    def right(self) -> bool:
        return self.error <= self.tolerance  # False for a NaN


def forward(
    operands: tuple[Tensor, ...],
    o: Tensor,
    lse: Tensor | None = None,
    *,
    causal: bool,
    factors: Tensor | None = None,
) -> dict[str, Output]:
    """O, and LSE if there is one, beside the reference.

    Args:
        operands: Q, K, V, and whatever else follows them.
        factors: what dropout multiplied P by.
    """
    q, k, v = operands[:3]
    exact, exact_lse = reference.attention(
        q.double(), k.double(), v.double(), causal=causal, factors=factors
    )
    plain, _ = reference.attention(
        q.float(),
        k.float(),
        v.float(),
        causal=causal,
        factors=None if factors is None else factors.float(),
        dtype=q.dtype,
    )
    allowed = reference.tolerance(exact, plain, reference.band(exact, q.dtype))
    outputs = {"O": Output(reference.error(o, exact), allowed)}
    if lse is not None:
        size = exact_lse.where(exact_lse.isfinite(), 0.0).abs().max()
        allowed = LSE_TOLERANCE * max(1.0, float(size))
        outputs["LSE"] = Output(reference.error(lse, exact_lse), allowed)
    return outputs


def gradients(
    operands: tuple[Tensor, ...],
    found: tuple[Tensor, ...],
    *,
    causal: bool,
    factors: Tensor | None = None,
) -> dict[str, Output]:
    """dQ, dK and dV beside the reference.

    Args:
        operands: Q, K, V, dO.
        factors: what dropout multiplied P by.
    """
    wide = [tensor.double() for tensor in operands]
    dtype = operands[0].dtype
    exact = reference.gradients(*wide, causal=causal, factors=factors)
    plain = reference.gradients(
        *(tensor.float() for tensor in operands),
        causal=causal,
        factors=None if factors is None else factors.float(),
        dtype=dtype,
    )
    bands = reference.gradient_bands(*wide, causal=causal, dtype=dtype, factors=factors)
    return {
        name: Output(reference.error(f, e), reference.tolerance(e, p, band))
        for name, f, e, p, band in zip(("dQ", "dK", "dV"), found, exact, plain, bands, strict=True)
    }
