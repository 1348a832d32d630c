"""What attention and its gradients are: the plain formulas, in float64 and in the dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fasim.problem import TENSOR_DTYPE, Attention
from fasim.readings import dropout
from fasim.readings.rounding import Array, round_to

Float64 = npt.NDArray[np.float64]

# Significant bits of each dtype, and the exponent of its smallest normal number.
SIGNIFICANT_BITS = {"tf32": 11, "fp16": 11, "bf16": 8, "fp8": 4}
MIN_EXPONENT = {"tf32": -126, "fp16": -14, "bf16": -126, "fp8": -6}


def visible(problem: Attention) -> npt.NDArray[np.bool_]:
    """[seqlen_q, seqlen_k]: whether a query sees a key; masks are aligned bottom-right."""
    shape, offset = (problem.seqlen_q, problem.seqlen_k), problem.seqlen_k - problem.seqlen_q
    seen = np.ones(shape, dtype=bool)
    left, right = problem.window or (-1, -1)
    if problem.causal:
        seen &= np.tri(*shape, offset, dtype=bool)
    if right >= 0:
        seen &= np.tri(*shape, offset + right, dtype=bool)
    if left >= 0:
        seen &= ~np.tri(*shape, offset - left - 1, dtype=bool)
    return seen


def softmax_of(scores: Array) -> Float64:
    """P of given scores, in float64, along the last axis."""
    exact = scores.astype(np.float64)
    p = np.exp(exact - exact.max(axis=-1, keepdims=True))
    return np.asarray(p / p.sum(axis=-1, keepdims=True))


def attention(problem: Attention, q: Array, k: Array, v: Array) -> tuple[Float64, Float64]:
    """(O, LSE) in float64; a row that sees nothing gives O = 0 and LSE = −inf.

    Dropout acts on P, and leaves LSE as it is.

    Args:
        q: [batch, heads, seqlen_q, head_dim].
        k: [batch, kv_heads, seqlen_k, head_dim], as `v`.

    Returns:
        O, shaped as `q`, and LSE [batch, heads, seqlen_q], the natural logarithm of the sum.
    """
    p, row_max, row_sum = softmax(problem, q, k)
    with np.errstate(divide="ignore"):
        lse = np.log(row_sum) + np.where(np.isneginf(row_max), 0.0, row_max)
    return dropped(problem, p) @ _heads(problem, v).astype(np.float64), lse


def softmax(problem: Attention, q: Array, k: Array) -> tuple[Float64, Float64, Float64]:
    """(P, row_max, row_sum) in float64; P [batch, heads, seqlen_q, seqlen_k], the others a row.

    row_max is that of the scaled scores; a row that sees nothing has P = 0, row_max = −inf and
    row_sum = 0.
    """
    keys = _heads(problem, k).astype(np.float64)
    scores = q.astype(np.float64) @ keys.swapaxes(-1, -2) * problem.scale
    scores = np.where(visible(problem), scores, -np.inf)
    row_max = scores.max(axis=-1, keepdims=True)
    p = np.exp(scores - np.where(np.isneginf(row_max), 0.0, row_max))
    row_sum = p.sum(axis=-1, keepdims=True)
    p = np.divide(p, row_sum, out=np.zeros_like(p), where=row_sum > 0)
    return p, row_max[..., 0], row_sum[..., 0]


def dropped(problem: Attention, p: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """P, or its gradient, with dropout; [batch, heads, seqlen_q, seqlen_k]."""
    return p if problem.dropout == 0 else p * dropout.factors(problem)


def gradients(
    problem: Attention, q: Array, k: Array, v: Array, do: Array
) -> tuple[Float64, Float64, Float64]:
    """(dQ, dK, dV) in float64, shaped as Q, K and V.

    Args:
        do: the gradient of O, shaped as `q`.
    """
    p, _, _ = softmax(problem, q, k)
    queries, do = q.astype(np.float64), do.astype(np.float64)
    keys, values = (_heads(problem, x).astype(np.float64) for x in (k, v))
    dp = dropped(problem, do @ values.swapaxes(-1, -2))
    ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True)) * problem.scale
    dk, dv = ds.swapaxes(-1, -2) @ queries, dropped(problem, p).swapaxes(-1, -2) @ do
    return ds @ keys, _group_sum(problem, dk), _group_sum(problem, dv)


def attention_in(problem: Attention, q: Array, k: Array, v: Array) -> Array:
    """O as plain attention computes it in the problem's dtype: S, P and O rounded to it.

    The yardstick of the tolerance rule: a schedule may err twice as much as this. Shapes as in
    `attention`; fp32 operands of a product are rounded to TF32, as tensor cores take them.
    """
    dtype, operand = problem.dtype, TENSOR_DTYPE[problem.dtype]
    values = round_to(_heads(problem, v), operand)
    p = dropped(problem, _softmax_in(problem, q, k))
    return round_to(round_to(p, operand) @ values, dtype)


def gradients_in(
    problem: Attention, q: Array, k: Array, v: Array, do: Array
) -> tuple[Array, Array, Array]:
    """(dQ, dK, dV) as plain attention computes them in the dtype: P, dP and dS rounded to it.

    The yardstick of gradients, as `attention_in` is that of O.
    """
    dtype, operand = problem.dtype, TENSOR_DTYPE[problem.dtype]
    p = round_to(_softmax_in(problem, q, k), dtype)
    do, queries = round_to(do, operand), round_to(q, operand)
    keys, values = (round_to(_heads(problem, x), operand) for x in (k, v))
    dp = round_to(dropped(problem, do @ values.swapaxes(-1, -2)), dtype)
    ds = round_to(p * (dp - (p * dp).sum(axis=-1, keepdims=True)), dtype)
    p, ds = round_to(dropped(problem, p), operand), round_to(ds, operand)
    scale = np.float32(problem.scale)
    dk, dv = ds.swapaxes(-1, -2) @ queries * scale, p.swapaxes(-1, -2) @ do
    dk, dv = (_group_sum(problem, round_to(x, dtype)) for x in (dk, dv))
    return round_to(ds @ keys * scale, dtype), round_to(dk, dtype), round_to(dv, dtype)


def _softmax_in(problem: Attention, q: Array, k: Array) -> Array:
    """P in FP32, of scores rounded to the problem's dtype."""
    dtype, operand = problem.dtype, TENSOR_DTYPE[problem.dtype]
    keys = round_to(_heads(problem, k), operand)
    scores = round_to(q, operand) @ keys.swapaxes(-1, -2) * np.float32(problem.scale)
    scores = np.where(visible(problem), round_to(scores, dtype), np.float32(-np.inf))
    row_max = scores.max(axis=-1, keepdims=True)
    row_max = np.where(np.isneginf(row_max), np.float32(0), row_max)
    p = np.exp(scores - row_max)
    row_sum = p.sum(axis=-1, keepdims=True)
    result: Array = np.divide(p, row_sum, out=np.zeros_like(p), where=row_sum > 0)
    return result


def rounding_band(problem: Attention, reference: Float64) -> float:
    """The spacing of the dtype at the largest of `reference`, or up to twice that.

    What a single rounding may move when plain attention happens to err little. FP32 is taken
    as TF32, in which tensor cores multiply it.
    """
    dtype = TENSOR_DTYPE[problem.dtype]
    size = max(float(np.abs(reference).max(initial=0.0)), 2.0 ** MIN_EXPONENT[dtype])
    return float(size * 2.0 ** (1 - SIGNIFICANT_BITS[dtype]))


def gradient_bands(
    problem: Attention, q: Array, k: Array, v: Array, do: Array
) -> tuple[float, float, float]:
    """Rounding bands of dQ, dK and dV.

    dS = P ∘ (dP − delta) is a difference of sums that may cancel to nothing: of one key, always.
    What roundings move is independent from product to product, and so adds up in squares.
    """
    p, _, _ = softmax(problem, q, k)
    queries, do = q.astype(np.float64), do.astype(np.float64)
    keys, values = (_heads(problem, x).astype(np.float64) for x in (k, v))
    after = dropped(problem, p)
    delta = (do**2 * (after @ values) ** 2).sum(axis=-1, keepdims=True)
    products = dropped(problem, dropped(problem, do**2 @ values.swapaxes(-1, -2) ** 2))
    terms = p**2 * (products + delta)
    dq = np.sqrt(terms @ keys**2) * problem.scale
    dk = np.sqrt(_group_sum(problem, terms.swapaxes(-1, -2) @ queries**2)) * problem.scale
    dv = _group_sum(problem, after.swapaxes(-1, -2) @ do)
    return (
        rounding_band(problem, dq),
        rounding_band(problem, dk),
        rounding_band(problem, dv),
    )


def _heads(problem: Attention, array: Array) -> Array:
    """[batch, kv_heads, …] → [batch, heads, …]: each query head's own view of its keys."""
    return np.repeat(array, problem.group, axis=1)


def _group_sum(problem: Attention, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[batch, heads, …] → [batch, kv_heads, …]: the sum over the query heads of a group."""
    shape = (problem.batch, problem.kv_heads, problem.group, *array.shape[2:])
    return np.asarray(array.reshape(shape).sum(axis=2))
