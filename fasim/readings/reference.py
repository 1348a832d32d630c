"""What attention is: the plain formula, in float64, and in the precision of a plain kernel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fasim.problem import Attention
from fasim.readings.rounding import Array, round_to

Float64 = npt.NDArray[np.float64]


def visible(problem: Attention) -> npt.NDArray[np.bool_]:
    """[seqlen_q, seqlen_k]: whether a query sees a key; causal is aligned bottom-right."""
    if not problem.causal:
        return np.ones((problem.seqlen_q, problem.seqlen_k), dtype=bool)
    offset = problem.seqlen_k - problem.seqlen_q
    return np.tri(problem.seqlen_q, problem.seqlen_k, offset, dtype=bool)


def _heads(problem: Attention, array: Array) -> Array:
    """[batch, kv_heads, …] → [batch, heads, …]: each query head's own view of its keys."""
    return np.repeat(array, problem.group, axis=1)


def attention(problem: Attention, q: Array, k: Array, v: Array) -> tuple[Float64, Float64]:
    """(O, LSE) in float64. A row that sees nothing gives O = 0 and LSE = −inf."""
    keys = _heads(problem, k).astype(np.float64)
    values = _heads(problem, v).astype(np.float64)
    scores = np.einsum("bhqd,bhkd->bhqk", q.astype(np.float64), keys) * problem.scale
    scores = np.where(visible(problem), scores, -np.inf)
    row_max = scores.max(axis=-1, keepdims=True)
    row_max = np.where(np.isneginf(row_max), 0.0, row_max)
    p = np.exp(scores - row_max)
    row_sum = p.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (np.log(row_sum) + row_max)[..., 0]
    p = np.divide(p, row_sum, out=np.zeros_like(p), where=row_sum > 0)
    return np.einsum("bhqk,bhkd->bhqd", p, values), lse


def attention_in(problem: Attention, q: Array, k: Array, v: Array) -> Array:
    """O as plain attention computes it in the problem's dtype: S, P and O rounded to it.

    The yardstick of the tolerance rule: a schedule may err twice as much as this.
    """
    dtype = problem.dtype
    keys, values = _heads(problem, k), _heads(problem, v)
    scores = np.einsum("bhqd,bhkd->bhqk", q, keys) * np.float32(problem.scale)
    scores = np.where(visible(problem), round_to(scores, dtype), np.float32(-np.inf))
    row_max = scores.max(axis=-1, keepdims=True)
    row_max = np.where(np.isneginf(row_max), np.float32(0), row_max)
    p = np.exp(scores - row_max)
    row_sum = p.sum(axis=-1, keepdims=True)
    p = np.divide(p, row_sum, out=np.zeros_like(p), where=row_sum > 0)
    return round_to(np.einsum("bhqk,bhkd->bhqd", round_to(p, dtype), values), dtype)


def rounding_band(problem: Attention, reference: Float64) -> float:
    """Largest spacing of the dtype at the size of the output: what rounding alone may move."""
    size = float(np.abs(reference).max(initial=0.0))
    bits = {"fp32": 24, "fp16": 11, "bf16": 8, "fp8": 4}[problem.dtype]
    return 2.0 * max(size, 2.0**-14) * 2.0**-bits
