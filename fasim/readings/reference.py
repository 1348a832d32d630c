"""What attention is: the plain formula, in float64, and in the precision of a plain kernel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fasim.problem import TENSOR_DTYPE, Attention
from fasim.readings.rounding import Array, round_to

Float64 = npt.NDArray[np.float64]

# Significant bits of each dtype, and the exponent of its smallest normal number.
SIGNIFICANT_BITS = {"tf32": 11, "fp16": 11, "bf16": 8, "fp8": 4}
MIN_EXPONENT = {"tf32": -126, "fp16": -14, "bf16": -126, "fp8": -6}


def visible(problem: Attention) -> npt.NDArray[np.bool_]:
    """[seqlen_q, seqlen_k]: whether a query sees a key; causal is aligned bottom-right."""
    if not problem.causal:
        return np.ones((problem.seqlen_q, problem.seqlen_k), dtype=bool)
    offset = problem.seqlen_k - problem.seqlen_q
    return np.tri(problem.seqlen_q, problem.seqlen_k, offset, dtype=bool)


def attention(problem: Attention, q: Array, k: Array, v: Array) -> tuple[Float64, Float64]:
    """(O, LSE) in float64; a row that sees nothing gives O = 0 and LSE = −inf.

    Args:
        q: [batch, heads, seqlen_q, head_dim].
        k: [batch, kv_heads, seqlen_k, head_dim], as `v`.

    Returns:
        O, shaped as `q`, and LSE [batch, heads, seqlen_q], the natural logarithm of the sum.
    """
    keys = _heads(problem, k).astype(np.float64)
    values = _heads(problem, v).astype(np.float64)
    scores = q.astype(np.float64) @ keys.swapaxes(-1, -2) * problem.scale
    scores = np.where(visible(problem), scores, -np.inf)
    row_max = scores.max(axis=-1, keepdims=True)
    row_max = np.where(np.isneginf(row_max), 0.0, row_max)
    p = np.exp(scores - row_max)
    row_sum = p.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (np.log(row_sum) + row_max)[..., 0]
    p = np.divide(p, row_sum, out=np.zeros_like(p), where=row_sum > 0)
    return p @ values, lse


def attention_in(problem: Attention, q: Array, k: Array, v: Array) -> Array:
    """O as plain attention computes it in the problem's dtype: S, P and O rounded to it.

    The yardstick of the tolerance rule: a schedule may err twice as much as this. Shapes as in
    `attention`; fp32 operands of a product are rounded to TF32, as tensor cores take them.
    """
    dtype, operand = problem.dtype, TENSOR_DTYPE[problem.dtype]
    keys = round_to(_heads(problem, k), operand)
    values = round_to(_heads(problem, v), operand)
    scores = round_to(q, operand) @ keys.swapaxes(-1, -2) * np.float32(problem.scale)
    scores = np.where(visible(problem), round_to(scores, dtype), np.float32(-np.inf))
    row_max = scores.max(axis=-1, keepdims=True)
    row_max = np.where(np.isneginf(row_max), np.float32(0), row_max)
    p = np.exp(scores - row_max)
    row_sum = p.sum(axis=-1, keepdims=True)
    p = np.divide(p, row_sum, out=np.zeros_like(p), where=row_sum > 0)
    return round_to(round_to(p, operand) @ values, dtype)


def rounding_band(problem: Attention, reference: Float64) -> float:
    """The spacing of the dtype at the largest of `reference`, or up to twice that.

    What a single rounding may move when plain attention happens to err little. FP32 is taken
    as TF32, in which tensor cores multiply it.
    """
    dtype = TENSOR_DTYPE[problem.dtype]
    size = max(float(np.abs(reference).max(initial=0.0)), 2.0 ** MIN_EXPONENT[dtype])
    return float(size * 2.0 ** (1 - SIGNIFICANT_BITS[dtype]))


def _heads(problem: Attention, array: Array) -> Array:
    """[batch, kv_heads, …] → [batch, heads, …]: each query head's own view of its keys."""
    return np.repeat(array, problem.group, axis=1)
