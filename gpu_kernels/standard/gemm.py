"""The one GEMM of standard attention: every product of its chain, by strides."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fasim.problem import Attention
from gpu_kernels import tiles
from gpu_kernels.launch import launch
from gpu_kernels.tiles import Pick
from gpu_kernels.variant import Variant, compiled_with

Tensor = torch.Tensor


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


def gemm_variant(arch: str, problem: Attention, name: str, *, head_wide: bool) -> Variant:
    """The kernel as it is compiled for a product of forward, in whole tiles of the table."""
    pick = tiles.gemm(arch, problem.head_dim, problem.dtype, head_wide=head_wide)
    fixed = {"GROUP_A": 1, "GROUP_B": 1, "TILE_M": pick.tile_m, "TILE_N": pick.tile_n}
    fixed |= {"TILE_K": pick.tile_k, "EVEN_M": True, "EVEN_N": True, "EVEN_K": True}
    # The side that lies contiguous in memory: as a launch finds it, a constant.
    fixed |= {"stride_ak": 1, "stride_cn": 1, "stride_bn" if head_wide else "stride_bk": 1}
    return compiled_with(
        f"standard-{name.replace('_', '-')}",
        matmul_kernel,
        dict.fromkeys("ABC", f"*{problem.dtype}"),
        fixed,
        problem,
        pick,
        schedule="gpu-kernels-standard",
        kernel_name=name,
    )
