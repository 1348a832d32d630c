"""Softmax of whole rows, as its three textbooks have it: naive, safe and online.

Mirrors the schedules softmax-naive, softmax-safe and softmax-online: a block owns some rows and
passes over their columns tile by tile; what it does not keep it loads again. FP32 inside.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from gpu_kernels import tiles
from gpu_kernels.launch import launch
from gpu_kernels.tiles import Pick
from gpu_kernels.variant import Variant, compiled_with


@triton.jit
def load_scores(S, place, start, inside, columns, EVEN_N: tl.constexpr, TILE_N: tl.constexpr):
    """Scores of columns from `start` on, times log2(e), and whether each is inside."""
    within = inside
    if not EVEN_N:
        within = inside & (start + tl.arange(0, TILE_N) < columns)[None, :]
    s = tl.load(S + place + start, mask=within, other=float("-inf"))
    return s.to(tl.float32) * 1.4426950408889634, within


@triton.jit
def normalise(
    S,
    P,
    place,
    inside,
    columns,
    shift,
    row_sum,
    EVEN_N: tl.constexpr,
    TILE_N: tl.constexpr,
):
    """load S; store exp(S − max) / sum."""
    inverse = tl.where(row_sum == 0.0, 0.0, 1.0 / row_sum)
    for start in tl.range(0, columns, TILE_N):
        s, within = load_scores(S, place, start, inside, columns, EVEN_N, TILE_N)
        p = tl.exp2(s - shift[:, None]) * inverse[:, None]
        tl.store(P + place + start, p.to(P.dtype.element_ty), mask=within)


@triton.jit
def naive_kernel(
    S,
    P,
    rows,
    columns,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    EVEN_N: tl.constexpr,
):
    """read S ; write P

    Two passes; large scores overflow. Grid: row tiles of a matrix, matrices.
    """
    row = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    inside = (row < rows)[:, None]
    place = (tl.program_id(1).to(tl.int64) * rows + row[:, None]) * columns
    place += tl.arange(0, TILE_N)[None, :]
    row_sum = tl.zeros([TILE_M], tl.float32)
    for start in tl.range(0, columns, TILE_N):
        s, _ = load_scores(S, place, start, inside, columns, EVEN_N, TILE_N)
        row_sum += tl.sum(tl.exp2(s), 1)
    shift = tl.zeros([TILE_M], tl.float32)
    normalise(S, P, place, inside, columns, shift, row_sum, EVEN_N, TILE_N)


@triton.jit
def safe_kernel(
    S,
    P,
    rows,
    columns,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    EVEN_N: tl.constexpr,
):
    """read S ; write P

    Three passes: maximum, sum below it, result. Grid: row tiles of a matrix, matrices.
    """
    row = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    inside = (row < rows)[:, None]
    place = (tl.program_id(1).to(tl.int64) * rows + row[:, None]) * columns
    place += tl.arange(0, TILE_N)[None, :]
    row_max = tl.full([TILE_M], float("-inf"), tl.float32)
    for start in tl.range(0, columns, TILE_N):
        s, _ = load_scores(S, place, start, inside, columns, EVEN_N, TILE_N)
        row_max = tl.maximum(row_max, tl.max(s, 1))
    shift = tl.where(row_max == float("-inf"), 0.0, row_max)
    row_sum = tl.zeros([TILE_M], tl.float32)
    for start in tl.range(0, columns, TILE_N):
        s, _ = load_scores(S, place, start, inside, columns, EVEN_N, TILE_N)
        row_sum += tl.sum(tl.exp2(s - shift[:, None]), 1)
    normalise(S, P, place, inside, columns, shift, row_sum, EVEN_N, TILE_N)


@triton.jit
def online_kernel(
    S,
    P,
    rows,
    columns,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    EVEN_N: tl.constexpr,
):
    """read S ; write P

    Two passes: maximum and sum at once, then the result. Grid: row tiles of a matrix, matrices.
    """
    row = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    inside = (row < rows)[:, None]
    place = (tl.program_id(1).to(tl.int64) * rows + row[:, None]) * columns
    place += tl.arange(0, TILE_N)[None, :]
    row_max = tl.full([TILE_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([TILE_M], tl.float32)
    shift = tl.zeros([TILE_M], tl.float32)
    for start in tl.range(0, columns, TILE_N):
        s, _ = load_scores(S, place, start, inside, columns, EVEN_N, TILE_N)
        new_max = tl.maximum(row_max, tl.max(s, 1))
        shift = tl.where(new_max == float("-inf"), 0.0, new_max)
        row_sum = row_sum * tl.exp2(row_max - shift) + tl.sum(tl.exp2(s - shift[:, None]), 1)
        row_max = new_max
    normalise(S, P, place, inside, columns, shift, row_sum, EVEN_N, TILE_N)


KERNELS = {
    "softmax-naive": naive_kernel,
    "softmax-safe": safe_kernel,
    "softmax-online": online_kernel,
}


def softmax(schedule: str, scores: torch.Tensor, *, pick: Pick | None = None) -> torch.Tensor:
    """P of scores [batch, heads, rows, columns], contiguous, by the kernel of a schedule.

    Args:
        pick: tile and warps; the table's unless given.
    """
    batch, heads, rows, columns = scores.shape
    pick = pick or tiles.softmax()
    p = torch.empty_like(scores)
    launch(
        schedule.replace("-", "_"),
        KERNELS[schedule],
        (triton.cdiv(rows, pick.tile_m), batch * heads),
        {"S": scores, "P": p},
        rows,
        columns,
        TILE_M=pick.tile_m,
        TILE_N=pick.tile_n,
        EVEN_N=columns % pick.tile_n == 0,
        num_warps=pick.warps,
    )
    return p


def variants(arch: str) -> list[Variant]:  # noqa: ARG001 - as every module has it
    """The kernels as they are compiled for whole tiles of the table, the same everywhere."""
    pick = tiles.softmax()
    fixed = {"TILE_M": pick.tile_m, "TILE_N": pick.tile_n, "EVEN_N": True}
    return [
        compiled_with(
            schedule,
            kernel,
            {"S": f"*{problem.dtype}", "P": f"*{problem.dtype}"},
            fixed,
            problem,
            pick,
            schedule=schedule,
            kernel_name=schedule.replace("-", "_"),
        )
        for problem in tiles.usual_problems(head_dims=(64,), masks=(False,))
        for schedule, kernel in KERNELS.items()
    ]
