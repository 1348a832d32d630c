"""What standard attention does to whole rows of its scores: softmax, dropout, their gradients."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from fasim.problem import Attention
from gpu_kernels import tiles
from gpu_kernels.launch import launch
from gpu_kernels.variant import Variant, compiled_with

Tensor = torch.Tensor


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


def over_rows(
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


def row_variants(problem: Attention) -> list[Variant]:
    """The kernels as they are compiled for whole tiles; a mask concerns softmax alone."""
    element, mask = f"*{problem.dtype}", "*i1"
    gradient = dict.fromkeys(("P", "dP", "dS"), element)
    dropped = {"P": element, "P_dropped": element, "dropout_mask": mask}
    dropped_gradient = {"dP_dropped": element, "dP": element, "dropout_mask": mask}
    listed: list[tuple[str, Any, dict[str, str], dict[str, object]]] = [
        ("softmax", softmax_kernel, {"S": element, "P": element}, {"CAUSAL": problem.causal})
    ]
    if not problem.causal:
        listed += [
            ("softmax_gradient", softmax_gradient_kernel, gradient, {}),
            ("dropout", dropout_kernel, dropped, {"dropout": 0.1}),
            ("dropout_gradient", dropout_gradient_kernel, dropped_gradient, {}),
        ]
    rows = tiles.rows(problem.seqlen_k)
    return [
        compiled_with(
            f"standard-{name.replace('_', '-')}",
            kernel,
            pointers,
            {"TILE_M": rows.tile_m, "TILE_N": rows.tile_n, **fixed},
            problem,
            rows,
            schedule="gpu-kernels-standard",
            kernel_name=name,
        )
        for name, kernel, pointers, fixed in listed
    ]
