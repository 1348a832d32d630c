"""The splits of the keys combined, each weighed by its LSE: the second kernel of split-KV."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fasim.problem import Attention
from fasim.schedules.implementations.flash_attn_2_split import combine_rows
from gpu_kernels.launch import launch
from gpu_kernels.tiles import Pick
from gpu_kernels.variant import Variant, compiled_with

COMBINE_WARPS = 4


@triton.jit
def combine_kernel(
    O_partial,
    LSE_partial,
    O,
    LSE,
    heads,
    rows,
    SPLITS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE_M: tl.constexpr,
):
    """read O_partial LSE_partial ; write O LSE

    Weighs the splits by their LSE; one that saw nothing has weight 0. Partials [batch, splits,
    heads, seqlen_q (, HEAD_DIM)], O and LSE the same without splits; rows = seqlen_q × GROUP of a
    key/value head. Grid: row tiles, kv_heads, batch.
    """
    batch = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    d = tl.arange(0, HEAD_DIM)
    inside = row < rows
    head = tl.program_id(1) * GROUP + row % GROUP
    place = head * (rows // GROUP) + row // GROUP  # of a row, among all of a batch and split
    row_max = tl.full([TILE_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([TILE_M], tl.float32)
    acc_o = tl.zeros([TILE_M, HEAD_DIM], tl.float32)
    all_rows = heads * (rows // GROUP)
    for split in tl.range(0, SPLITS):
        at = (batch * SPLITS + split) * all_rows + place
        lse = tl.load(LSE_partial + at, mask=inside, other=float("-inf"))
        o_ptrs = O_partial + at[:, None] * HEAD_DIM + d[None, :]
        o = tl.load(o_ptrs, mask=inside[:, None], other=0.0)
        new_max = tl.maximum(row_max, lse)
        shift = tl.where(new_max == float("-inf"), 0.0, new_max) * 1.4426950408889634
        weight = tl.exp2(lse * 1.4426950408889634 - shift)
        correction = tl.exp2(row_max * 1.4426950408889634 - shift)
        acc_o = acc_o * correction[:, None] + o * weight[:, None]
        row_sum = row_sum * correction + weight
        row_max = new_max
    o = acc_o * tl.where(row_sum == 0.0, 0.0, 1.0 / row_sum)[:, None]
    lse = row_max + tl.log2(row_sum) * 0.6931471805599453
    at = batch * all_rows + place
    o_ptrs = O + at[:, None] * HEAD_DIM + d[None, :]
    tl.store(o_ptrs, o.to(O.dtype.element_ty), mask=inside[:, None])
    tl.store(LSE + at, lse, mask=inside)


def combine(
    o_partial: torch.Tensor, lse_partial: torch.Tensor, problem: Attention, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """(O, LSE) of the splits' own, [batch, splits, heads, seqlen_q (, head_dim)] in FP32."""
    batch, num_splits, heads, seqlen_q, head_dim = o_partial.shape
    o = o_partial.new_empty((batch, heads, seqlen_q, head_dim), dtype=dtype)
    lse = lse_partial.new_empty((batch, heads, seqlen_q))
    rows, tile_m = seqlen_q * problem.group, combine_rows(head_dim)
    launch(
        "combine",
        combine_kernel,
        (triton.cdiv(rows, tile_m), problem.kv_heads, batch),
        {"O_partial": o_partial, "LSE_partial": lse_partial, "O": o, "LSE": lse},
        heads,
        rows,
        SPLITS=num_splits,
        GROUP=problem.group,
        HEAD_DIM=head_dim,
        TILE_M=tile_m,
        num_warps=COMBINE_WARPS,
    )
    return o, lse


def combine_variant(problem: Attention, num_splits: int, tile_n: int) -> Variant:
    """The kernel as it is compiled; `tile_n` is that of the kernel before."""
    element = f"*{problem.dtype}"
    tile_m = combine_rows(problem.head_dim)
    return compiled_with(
        "split-kv-combine",
        combine_kernel,
        {"O_partial": "*fp32", "LSE_partial": "*fp32", "O": element, "LSE": "*fp32"},
        {"SPLITS": num_splits, "GROUP": 1, "HEAD_DIM": problem.head_dim, "TILE_M": tile_m},
        problem,
        Pick(tile_m, tile_n, COMBINE_WARPS),
        schedule="gpu-kernels-split-kv",
        kernel_name="combine",
    )
