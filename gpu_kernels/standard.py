"""Standard attention in Triton: QKᵀ, softmax, [dropout], PV as kernels of their own, and backward.

Mirrors schedule `standard`: one GEMM for every product, S and P in global memory in the input
dtype; a causal mask is applied inside the softmax, so that all of N² is moved and multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from fasim.problem import Attention
from gpu_kernels import tiles
from gpu_kernels.backward import group_sum
from gpu_kernels.launch import launch
from gpu_kernels.tiles import Pick
from gpu_kernels.variant import Variant, compiled_with

Tensor = torch.Tensor


@dataclass(frozen=True)
class Saved:
    """What forward leaves in memory for backward, [batch, heads, seqlen_q, seqlen_k] each.

    p_dropped is p itself, and dropout_mask None, without dropout.
    """

    p: Tensor
    p_dropped: Tensor
    dropout_mask: Tensor | None


@triton.jit
def matmul_kernel(
    A,
    B,
    C,
    stride_ab,
    stride_ah,
    stride_am,
    stride_ak,
    stride_bb,
    stride_bh,
    stride_bk,
    stride_bn,
    stride_cb,
    stride_ch,
    stride_cm,
    stride_cn,
    heads,
    M,
    N,
    K,
    scale,
    GROUP_A: tl.constexpr,
    GROUP_B: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    EVEN_M: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
):
    """read A B ; write C

    C = A·B·scale for every batch and head, by strides. A has a head for GROUP_A of C's, B for
    GROUP_B. Grid: row tiles, column tiles, batch × heads.
    """
    batch, head = tl.program_id(2) // heads, tl.program_id(2) % heads
    batch, head = batch.to(tl.int64), head.to(tl.int64)
    rows = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    cols = tl.program_id(1) * TILE_N + tl.arange(0, TILE_N)
    depth = tl.arange(0, TILE_K)
    a_ptrs = A + batch * stride_ab + (head // GROUP_A) * stride_ah
    a_ptrs += rows[:, None] * stride_am + depth[None, :] * stride_ak
    b_ptrs = B + batch * stride_bb + (head // GROUP_B) * stride_bh
    b_ptrs += depth[:, None] * stride_bk + cols[None, :] * stride_bn
    rows_inside, cols_inside = (rows < M)[:, None], (cols < N)[None, :]
    acc = tl.zeros([TILE_M, TILE_N], tl.float32)
    for start in tl.range(0, K, TILE_K):
        if EVEN_K:
            if EVEN_M:
                a = tl.load(a_ptrs)
            else:
                a = tl.load(a_ptrs, mask=rows_inside, other=0.0)
            if EVEN_N:
                b = tl.load(b_ptrs)
            else:
                b = tl.load(b_ptrs, mask=cols_inside, other=0.0)
        else:
            inside = start + depth < K
            a = tl.load(a_ptrs, mask=rows_inside & inside[None, :], other=0.0)
            b = tl.load(b_ptrs, mask=inside[:, None] & cols_inside, other=0.0)
        acc = tl.dot(a, b, acc)
        a_ptrs += TILE_K * stride_ak
        b_ptrs += TILE_K * stride_bk
    c_ptrs = C + batch * stride_cb + head * stride_ch
    c_ptrs += rows[:, None] * stride_cm + cols[None, :] * stride_cn
    c = (acc * scale).to(C.dtype.element_ty)
    if EVEN_M and EVEN_N:
        tl.store(c_ptrs, c)
    else:
        tl.store(c_ptrs, c, mask=rows_inside & cols_inside)


@triton.jit
def softmax_kernel(
    S,
    P,
    seqlen_q,
    seqlen_k,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    CAUSAL: tl.constexpr,
):
    """read S ; write P

    P = softmax(S) [batch, heads, seqlen_q, seqlen_k] over whole rows; a row that sees nothing
    gives zeros. Grid: row tiles, heads, batch.
    """
    matrix = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    rows, cols = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M), tl.arange(0, TILE_N)
    place = (matrix * seqlen_q + rows[:, None]) * seqlen_k + cols[None, :]
    inside = (rows < seqlen_q)[:, None] & (cols < seqlen_k)[None, :]
    s = tl.load(S + place, mask=inside, other=float("-inf")).to(tl.float32)
    if CAUSAL:
        s = tl.where(cols[None, :] <= (rows + seqlen_k - seqlen_q)[:, None], s, float("-inf"))
    row_max = tl.max(s, 1)
    row_max = tl.where(row_max == float("-inf"), 0.0, row_max) * 1.4426950408889634
    p = tl.exp2(s * 1.4426950408889634 - row_max[:, None])
    row_sum = tl.sum(p, 1)
    p = p * tl.where(row_sum == 0.0, 0.0, 1.0 / row_sum)[:, None]
    tl.store(P + place, p.to(P.dtype.element_ty), mask=inside)


@triton.jit
def dropout_kernel(
    P,
    P_dropped,
    dropout_mask,
    seqlen_q,
    seqlen_k,
    seed,
    scale_kept,
    dropout: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
):
    """read P ; write P_dropped dropout_mask

    Draws from Philox, an element's place as the counter. Grid: row tiles, heads, batch.
    """
    matrix = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    rows, cols = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M), tl.arange(0, TILE_N)
    place = (matrix * seqlen_q + rows[:, None]) * seqlen_k + cols[None, :]
    inside = (rows < seqlen_q)[:, None] & (cols < seqlen_k)[None, :]
    p = tl.load(P + place, mask=inside, other=0.0).to(tl.float32)
    kept = tl.rand(seed, place) >= dropout
    p = tl.where(kept, p * scale_kept, 0.0)
    tl.store(P_dropped + place, p.to(P_dropped.dtype.element_ty), mask=inside)
    tl.store(dropout_mask + place, kept, mask=inside)


@triton.jit
def dropout_gradient_kernel(
    dP_dropped,
    dropout_mask,
    dP,
    seqlen_q,
    seqlen_k,
    scale_kept,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
):
    """read dP_dropped dropout_mask ; write dP

    Grid: row tiles, heads, batch.
    """
    matrix = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    rows, cols = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M), tl.arange(0, TILE_N)
    place = (matrix * seqlen_q + rows[:, None]) * seqlen_k + cols[None, :]
    inside = (rows < seqlen_q)[:, None] & (cols < seqlen_k)[None, :]
    dp = tl.load(dP_dropped + place, mask=inside, other=0.0).to(tl.float32)
    kept = tl.load(dropout_mask + place, mask=inside, other=0) != 0
    dp = tl.where(kept, dp * scale_kept, 0.0)
    tl.store(dP + place, dp.to(dP.dtype.element_ty), mask=inside)


@triton.jit
def softmax_gradient_kernel(
    P,
    dP,
    dS,
    seqlen_q,
    seqlen_k,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
):
    """read P dP ; write dS

    dS = P ∘ (dP − rowsum(P ∘ dP)) over whole rows. Grid: row tiles, heads, batch.
    """
    matrix = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    rows, cols = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M), tl.arange(0, TILE_N)
    place = (matrix * seqlen_q + rows[:, None]) * seqlen_k + cols[None, :]
    inside = (rows < seqlen_q)[:, None] & (cols < seqlen_k)[None, :]
    p = tl.load(P + place, mask=inside, other=0.0).to(tl.float32)
    dp = tl.load(dP + place, mask=inside, other=0.0).to(tl.float32)
    ds = p * (dp - tl.sum(p * dp, 1)[:, None])
    tl.store(dS + place, ds.to(dS.dtype.element_ty), mask=inside)


def product(
    name: str,
    tensors: dict[str, Tensor],
    scale: float = 1.0,
    *,
    transposed: tuple[bool, bool] = (False, False),
    pick: Pick,
) -> Tensor:
    """C = A·B·scale: `tensors` are A and B [batch, heads, …] and C, which it returns.

    Args:
        name: of the kernel in fasim's chain.
        transposed: whether A, and B, stand transposed in memory.
    """
    a, b, c = tensors.values()
    a, b = (x.mT if turned else x for x, turned in zip((a, b), transposed, strict=True))
    batch, heads, rows, columns = c.shape
    depth = a.shape[3]
    launch(
        name,
        matmul_kernel,
        (triton.cdiv(rows, pick.tile_m), triton.cdiv(columns, pick.tile_n), batch * heads),
        tensors,
        *a.stride(),
        *b.stride(),
        *c.stride(),
        heads,
        rows,
        columns,
        depth,
        scale,
        GROUP_A=heads // a.shape[1],
        GROUP_B=heads // b.shape[1],
        TILE_M=pick.tile_m,
        TILE_N=pick.tile_n,
        TILE_K=pick.tile_k,
        EVEN_M=rows % pick.tile_m == 0,
        EVEN_N=columns % pick.tile_n == 0,
        EVEN_K=depth % pick.tile_k == 0,
        num_warps=pick.warps,
        num_stages=pick.stages,
    )
    return c


def _over_rows(
    name: str, kernel: Any, tensors: dict[str, Tensor], *scalars: float, **constants: object
) -> None:
    """Launches a kernel over whole rows of matrices [batch, heads, seqlen_q, seqlen_k]."""
    batch, heads, seqlen_q, seqlen_k = next(iter(tensors.values())).shape
    pick = tiles.rows(seqlen_k)
    grid = (triton.cdiv(seqlen_q, pick.tile_m), heads, batch)
    launch(
        name,
        kernel,
        grid,
        tensors,
        seqlen_q,
        seqlen_k,
        *scalars,
        **constants,
        TILE_M=pick.tile_m,
        TILE_N=pick.tile_n,
        num_warps=pick.warps,
    )


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
    _over_rows("softmax", softmax_kernel, {"S": s, "P": p}, CAUSAL=causal)
    name, kept, mask = "P", p, None
    if dropout:
        name, kept = "P_dropped", q.new_empty(shape)
        mask = torch.empty(shape, dtype=torch.bool, device=q.device)
        tensors = {"P": p, "P_dropped": kept, "dropout_mask": mask}
        scale_kept = 1 / (1 - dropout)
        _over_rows("dropout", dropout_kernel, tensors, seed, scale_kept, dropout=dropout)
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
        _over_rows("dropout_gradient", dropout_gradient_kernel, tensors, scale_kept)
    _over_rows("softmax_gradient", softmax_gradient_kernel, {"P": p, "dP": dp, "dS": ds})
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
        element, length = f"*{problem.dtype}", problem.seqlen_k
        rows = tiles.rows(length)
        over_rows = {"TILE_M": rows.tile_m, "TILE_N": rows.tile_n}
        scores = {"S": element, "P": element}
        listed = [
            ("softmax", softmax_kernel, scores, {**over_rows, "CAUSAL": problem.causal}, rows)
        ]
        if not problem.causal:
            for name, head_wide in (("query_key", False), ("probability_value", True)):
                pick = tiles.gemm(arch, problem.head_dim, problem.dtype, head_wide=head_wide)
                fixed = {"GROUP_A": 1, "GROUP_B": 1, "TILE_M": pick.tile_m, "TILE_N": pick.tile_n}
                fixed |= {"TILE_K": pick.tile_k, "EVEN_M": True, "EVEN_N": True, "EVEN_K": True}
                # The side that lies contiguous in memory: as a launch finds it, a constant.
                fixed |= {
                    "stride_ak": 1,
                    "stride_cn": 1,
                    "stride_bn" if head_wide else "stride_bk": 1,
                }
                operands = dict.fromkeys("ABC", element)
                listed.append((name, matmul_kernel, operands, fixed, pick))
            gradient = dict.fromkeys(("P", "dP", "dS"), element)
            listed.append(("softmax_gradient", softmax_gradient_kernel, gradient, over_rows, rows))
            mask = {"dropout_mask": "*i1"}
            dropped = {"P": element, "P_dropped": element, **mask}
            fixed = {**over_rows, "dropout": 0.1}
            listed.append(("dropout", dropout_kernel, dropped, fixed, rows))
            dropped = {"dP_dropped": element, "dP": element, **mask}
            listed.append(("dropout_gradient", dropout_gradient_kernel, dropped, over_rows, rows))
        for name, kernel, pointers, fixed, pick in listed:
            found.append(
                compiled_with(
                    f"standard-{name.replace('_', '-')}",
                    kernel,
                    pointers,
                    fixed,
                    problem,
                    pick,
                    schedule="standard",
                    kernel_name=name,
                )
            )
    return found
