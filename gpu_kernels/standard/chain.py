"""Standard attention forward and backward: its kernels one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fasim.problem import Attention
from gpu_kernels import tiles
from gpu_kernels.backward.group_sums import group_sum
from gpu_kernels.standard.gemm import gemm_variant, product
from gpu_kernels.standard.score_rows import (
    dropout_gradient_kernel,
    dropout_kernel,
    over_rows,
    row_variants,
    softmax_gradient_kernel,
    softmax_kernel,
)
from gpu_kernels.tiles import Pick
from gpu_kernels.variant import Variant

Tensor = torch.Tensor


@dataclass(frozen=True)
class Saved:
    """What forward leaves in memory for backward, [batch, heads, seqlen_q, seqlen_k] each.

    p_dropped is p itself, and dropout_mask None, without dropout.
    """

    p: Tensor
    p_dropped: Tensor
    dropout_mask: Tensor | None


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    dropout: float = 0.0,
    seed: int = 0,
    tile: tuple[int, int] | None = None,
    arch: str = "",
) -> tuple[Tensor, Saved]:
    """O of attention, and what its backward needs.

    Args:
        q: [batch, heads, seqlen_q, head_dim], k and v [batch, kv_heads, seqlen_k, head_dim].
        tile: of the two products; the table's unless given.
        arch: whose table to take instead of that of the GPU that holds q.

    Raises:
        ProblemError: shapes or a dtype that the kernels do not take.
    """
    problem = tiles.problem_of(q, k, v, causal=causal, dropout=dropout)
    wide, narrow = _gemms(problem, arch or tiles.architecture(q), tile)
    shape = (problem.batch, problem.heads, problem.seqlen_q, problem.seqlen_k)
    s, p = q.new_empty(shape), q.new_empty(shape)
    product(
        "query_key", {"Q": q, "K": k, "S": s}, problem.scale, transposed=(False, True), pick=wide
    )
    over_rows("softmax", softmax_kernel, {"S": s, "P": p}, CAUSAL=causal)
    name, kept, mask = "P", p, None
    if dropout:
        name, kept = "P_dropped", q.new_empty(shape)
        mask = torch.empty(shape, dtype=torch.bool, device=q.device)
        tensors = {"P": p, "P_dropped": kept, "dropout_mask": mask}
        scale_kept = 1 / (1 - dropout)
        over_rows("dropout", dropout_kernel, tensors, seed, scale_kept, dropout=dropout)
    o = q.new_empty(q.shape)
    product("probability_value", {name: kept, "V": v, "O": o}, pick=narrow)
    return o, Saved(p, kept, mask)


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    saved: Saved,
    do: Tensor,
    *,
    dropout: float = 0.0,
    tile: tuple[int, int] | None = None,
    arch: str = "",
) -> tuple[Tensor, Tensor, Tensor]:
    """(dQ, dK, dV) from what `forward` saved.

    Raises:
        ProblemError: shapes or a dtype that the kernels do not take.
    """
    problem = tiles.problem_of(q, k, v, causal=False, dropout=dropout)
    wide, narrow = _gemms(problem, arch or tiles.architecture(q), tile)
    p, mask = saved.p, saved.dropout_mask
    suffix = "" if mask is None else "_dropped"
    by_head = "" if problem.group == 1 else "_heads"
    shape = (problem.batch, problem.heads, problem.seqlen_k, problem.head_dim)
    dv, dk, dq = q.new_empty(shape), q.new_empty(shape), q.new_empty(q.shape)
    dp, ds = torch.empty_like(p), torch.empty_like(p)
    product(
        "value_gradient",
        {f"P{suffix}": saved.p_dropped, "dO": do, f"dV{by_head}": dv},
        transposed=(True, False),
        pick=narrow,
    )
    product(
        "probability_gradient",
        {"dO": do, "V": v, f"dP{suffix}": dp},
        transposed=(False, True),
        pick=wide,
    )
    if mask is not None:
        before, dp = dp, torch.empty_like(p)
        tensors = {"dP_dropped": before, "dropout_mask": mask, "dP": dp}
        scale_kept = 1 / (1 - dropout)
        over_rows("dropout_gradient", dropout_gradient_kernel, tensors, scale_kept)
    over_rows("softmax_gradient", softmax_gradient_kernel, {"P": p, "dP": dp, "dS": ds})
    product("query_gradient", {"dS": ds, "K": k, "dQ": dq}, problem.scale, pick=narrow)
    product(
        "key_gradient",
        {"dS": ds, "Q": q, f"dK{by_head}": dk},
        problem.scale,
        transposed=(True, False),
        pick=narrow,
    )
    kv_heads = problem.kv_heads
    return dq, group_sum("dK", dk, kv_heads), group_sum("dV", dv, kv_heads)


def _gemms(problem: Attention, arch: str, tile: tuple[int, int] | None) -> tuple[Pick, Pick]:
    """Of the products whose columns are keys, and of those whose columns are a head's."""
    wide, narrow = (
        tiles.gemm(arch, problem.head_dim, problem.dtype, head_wide=head_wide, tile=tile)
        for head_wide in (False, True)
    )
    return wide, narrow


def variants(arch: str) -> list[Variant]:
    """The kernels as they are compiled for whole tiles of the table."""
    found = []
    for problem in tiles.usual_problems():
        softmax, *others = row_variants(problem)
        found.append(softmax)
        if not problem.causal:
            for name, head_wide in (("query_key", False), ("probability_value", True)):
                found.append(gemm_variant(arch, problem, name, head_wide=head_wide))
        found += others
    return found
