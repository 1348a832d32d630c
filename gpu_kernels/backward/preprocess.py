"""What both passes of backward need of O and dO: delta, a value a query."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fasim.problem import Attention
from fasim.schedules.gradients import STREAMING
from fasim.schedules.two_pass import PREPROCESS_ROWS
from gpu_kernels.launch import launch
from gpu_kernels.tiles import Pick
from gpu_kernels.variant import Variant, compiled_with


@triton.jit
def preprocess_kernel(
    O,
    dO,
    delta,
    stride_ob,
    stride_oh,
    stride_om,
    stride_gb,
    stride_gh,
    stride_gm,
    seqlen_q,
    HEAD_DIM: tl.constexpr,
    TILE_M: tl.constexpr,
    EVEN_M: tl.constexpr,
):
    """read O dO ; write delta

    delta = rowsum(dO ∘ O) [batch, heads, seqlen_q]. Grid: row tiles, heads, batch.
    """
    head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    rows = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    d = tl.arange(0, HEAD_DIM)
    o_ptrs = O + batch * stride_ob + head * stride_oh + rows[:, None] * stride_om + d[None, :]
    do_ptrs = dO + batch * stride_gb + head * stride_gh + rows[:, None] * stride_gm + d[None, :]
    delta_ptrs = delta + (batch * tl.num_programs(1) + head) * seqlen_q + rows
    if EVEN_M:
        o, do = tl.load(o_ptrs), tl.load(do_ptrs)
        tl.store(delta_ptrs, tl.sum(o.to(tl.float32) * do.to(tl.float32), 1))
    else:
        inside = rows < seqlen_q
        o = tl.load(o_ptrs, mask=inside[:, None], other=0.0)
        do = tl.load(do_ptrs, mask=inside[:, None], other=0.0)
        tl.store(delta_ptrs, tl.sum(o.to(tl.float32) * do.to(tl.float32), 1), mask=inside)


def preprocess(o: torch.Tensor, do: torch.Tensor) -> torch.Tensor:
    """delta [batch, heads, seqlen_q], fp32: rowsum(dO ∘ O)."""
    batch, heads, seqlen_q, head_dim = o.shape
    delta = torch.empty((batch, heads, seqlen_q), dtype=torch.float32, device=o.device)
    launch(
        "preprocess",
        preprocess_kernel,
        (triton.cdiv(seqlen_q, PREPROCESS_ROWS), heads, batch),
        {"O": o, "dO": do, "delta": delta},
        *o.stride()[:3],
        *do.stride()[:3],
        seqlen_q,
        HEAD_DIM=head_dim,
        TILE_M=PREPROCESS_ROWS,
        EVEN_M=seqlen_q % PREPROCESS_ROWS == 0,
        num_warps=STREAMING.warps,
    )
    return delta


def preprocess_variant(problem: Attention) -> Variant:
    """The kernel as it is compiled for whole tiles."""
    element = f"*{problem.dtype}"
    return compiled_with(
        "backward-preprocess",
        preprocess_kernel,
        {"O": element, "dO": element, "delta": "*fp32"},
        {"HEAD_DIM": problem.head_dim, "TILE_M": PREPROCESS_ROWS, "EVEN_M": True},
        problem,
        Pick(PREPROCESS_ROWS, PREPROCESS_ROWS, STREAMING.warps),
        schedule="gpu-kernels",
        kernel_name="preprocess",
    )
