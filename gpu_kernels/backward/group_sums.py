"""dK and dV of key/value heads that query heads share: the sum of those of each query head."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fasim.problem import Attention
from fasim.schedules.gradients import ROWS_PER_SUM_BLOCK, STREAMING
from gpu_kernels.launch import launch
from gpu_kernels.tiles import Pick
from gpu_kernels.variant import Variant, compiled_with


@triton.jit
def group_sum_kernel(
    heads_grad,
    grad,
    seqlen_k,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE_N: tl.constexpr,
):
    """read heads_grad ; write grad

    grad [batch, kv_heads, seqlen_k, HEAD_DIM]: the sum of heads_grad over each kv_head's GROUP
    query heads. Grid: row tiles, kv_heads, batch.
    """
    kv_head = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    rows, d = tl.program_id(0) * TILE_N + tl.arange(0, TILE_N), tl.arange(0, HEAD_DIM)
    place = rows[:, None] * HEAD_DIM + d[None, :]
    inside = (rows < seqlen_k)[:, None]
    total = tl.zeros([TILE_N, HEAD_DIM], tl.float32)
    for member in tl.static_range(GROUP):
        base = (kv_head * GROUP + member) * seqlen_k * HEAD_DIM
        total += tl.load(heads_grad + base + place, mask=inside, other=0.0).to(tl.float32)
    base = kv_head * seqlen_k * HEAD_DIM
    tl.store(grad + base + place, total.to(grad.dtype.element_ty), mask=inside)


def group_sum(name: str, heads_grad: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """[batch, heads, seqlen_k, d] → [batch, kv_heads, …]; the same where each has its own."""
    batch, heads, seqlen_k, head_dim = heads_grad.shape
    if heads == kv_heads:
        return heads_grad
    grad = heads_grad.new_empty((batch, kv_heads, seqlen_k, head_dim))
    launch(
        f"sum_{name}",
        group_sum_kernel,
        (triton.cdiv(seqlen_k, ROWS_PER_SUM_BLOCK), kv_heads, batch),
        {f"{name}_heads": heads_grad, name: grad},
        seqlen_k,
        GROUP=heads // kv_heads,
        HEAD_DIM=head_dim,
        TILE_N=ROWS_PER_SUM_BLOCK,
        num_warps=STREAMING.warps,
    )
    return grad


def group_sum_variant(problem: Attention) -> Variant:
    """The kernel as it is compiled for four query heads to a key/value head."""
    element = f"*{problem.dtype}"
    return compiled_with(
        "backward-group-sum",
        group_sum_kernel,
        {"heads_grad": element, "grad": element},
        {"HEAD_DIM": problem.head_dim, "GROUP": 4, "TILE_N": ROWS_PER_SUM_BLOCK},
        problem,
        Pick(ROWS_PER_SUM_BLOCK, ROWS_PER_SUM_BLOCK, STREAMING.warps),
        schedule="gpu-kernels",
        kernel_name="sum_dK",
    )
