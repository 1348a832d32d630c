"""What the kernels compute: plain PyTorch, in float64 and in the dtype; and the tolerance rule.

A kernel is right if it errs at most twice as much as plain attention rounded to the dtype at
every step, against float64, and one rounding of the result beside.
"""

from __future__ import annotations

import torch

Tensor = torch.Tensor


def visible(
    seqlen_q: int, seqlen_k: int, causal: bool, device: torch.device | None = None
) -> Tensor:
    """[seqlen_q, seqlen_k]: whether a query sees a key; a causal mask is aligned bottom-right."""
    seen = torch.ones(seqlen_q, seqlen_k, dtype=torch.bool, device=device)
    return seen.tril(seqlen_k - seqlen_q) if causal else seen


def softmax(scores: Tensor) -> Tensor:
    """P of scores along the last axis; zeros in a row of −inf alone."""
    row_max = scores.amax(-1, keepdim=True)
    p = (scores - row_max.where(row_max.isfinite(), 0.0)).exp()
    row_sum = p.sum(-1, keepdim=True)
    return torch.where(row_sum > 0, p / row_sum, 0.0)


def scores(q: Tensor, k: Tensor, causal: bool, dtype: torch.dtype | None) -> Tensor:
    """QKᵀ/√d, rounded to `dtype` if one is given, −inf where hidden.

    q [batch, heads, seqlen_q, head_dim], k [batch, kv_heads, seqlen_k, head_dim].
    """
    keys = by_query_head(k, q.shape[1])
    s = rounded(q @ keys.mT * q.shape[-1] ** -0.5, dtype)
    return s.masked_fill(~visible(q.shape[2], k.shape[2], causal, q.device), float("-inf"))


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    factors: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """(O, LSE) of operands in a wide dtype; S, P and O rounded to `dtype` if one is given.

    Args:
        factors: what dropout multiplies P by, [batch, heads, seqlen_q, seqlen_k].
    """
    s = scores(q, k, causal, dtype)
    p = softmax(s)
    p = p if factors is None else p * factors
    o = rounded(rounded(p, dtype) @ by_query_head(v, q.shape[1]), dtype)
    return o, s.logsumexp(-1)


def gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    do: Tensor,
    *,
    causal: bool,
    factors: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dQ, dK, dV) of operands in a wide dtype; P, dP and dS rounded to `dtype` if given."""
    heads, scale = q.shape[1], q.shape[-1] ** -0.5
    keys, values = by_query_head(k, heads), by_query_head(v, heads)
    p = rounded(softmax(scores(q, k, causal, dtype)), dtype)
    factors = torch.ones_like(p) if factors is None else factors
    dp = rounded(do @ values.mT * factors, dtype)
    ds = rounded(p * (dp - (p * dp).sum(-1, keepdim=True)), dtype)
    dv = rounded(rounded(p * factors, dtype).mT @ do, dtype)
    dk = rounded(ds.mT @ q * scale, dtype)
    dq = rounded(ds @ keys * scale, dtype)
    return dq, group_sum(dk, k.shape[1]), group_sum(dv, k.shape[1])


def gradient_bands(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    do: Tensor,
    *,
    causal: bool,
    dtype: torch.dtype,
    factors: Tensor | None = None,
) -> tuple[float, float, float]:
    """Rounding bands of dQ, dK and dV.

    dS = P ∘ (dP − delta) is a difference of sums that may cancel to nothing: of one key, always.
    What roundings move is independent from product to product, and so adds up in squares.
    """
    heads, scale = q.shape[1], q.shape[-1] ** -0.5
    keys, values = by_query_head(k, heads), by_query_head(v, heads)
    p = softmax(scores(q, k, causal, None))
    factors = torch.ones_like(p) if factors is None else factors
    after = p * factors
    delta = (do**2 * (after @ values) ** 2).sum(-1, keepdim=True)
    terms = p**2 * (do**2 @ values.mT**2 * factors**2 + delta)
    dq = (terms @ keys**2).sqrt() * scale
    dk = group_sum(terms.mT @ q**2, k.shape[1]).sqrt() * scale
    dv = group_sum(after.mT @ do, v.shape[1])
    return band(dq, dtype), band(dk, dtype), band(dv, dtype)


def band(reference: Tensor, dtype: torch.dtype) -> float:
    """The spacing of the dtype at the largest of `reference`, or up to twice that."""
    facts = torch.finfo(dtype)
    return max(float(reference.abs().max()), facts.tiny) * facts.eps


def tolerance(exact: Tensor, plain: Tensor, rounding_band: float) -> float:
    """The largest error a kernel may make: twice that of `plain`, and a rounding band."""
    return 2 * float((plain - exact).abs().max()) + rounding_band


def error(found: Tensor, exact: Tensor) -> float:
    """The largest difference; NaN where something is not finite that should be."""
    same = (found == exact) | (found.double() - exact).abs().isfinite()
    if not bool(same.all()):
        return float("nan")
    difference = (found.double() - exact).where(found != exact, 0.0)
    return float(difference.abs().max())


def rounded(values: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Values that `dtype` can hold, in the dtype they came in."""
    return values if dtype is None else values.to(dtype).to(values.dtype)


def by_query_head(tensor: Tensor, heads: int) -> Tensor:
    """[batch, kv_heads, …] → [batch, heads, …]: each query head's own view of its keys."""
    return tensor.repeat_interleave(heads // tensor.shape[1], 1)


def group_sum(tensor: Tensor, kv_heads: int) -> Tensor:
    """[batch, heads, …] → [batch, kv_heads, …]: the sum over the query heads of a group."""
    return tensor.unflatten(1, (kv_heads, -1)).sum(2)
