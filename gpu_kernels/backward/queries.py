"""The second pass of backward: dQ, a block a row tile of queries."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl

from fasim.problem import Attention
from gpu_kernels import tiles
from gpu_kernels.forward import constants
from gpu_kernels.launch import launch
from gpu_kernels.tiles import Pick
from gpu_kernels.variant import Variant, compiled_with


@triton.jit
def gather_queries(
    acc_dq,
    q,
    do,
    lse_log2,
    delta,
    k_ptrs,
    v_ptrs,
    stride_kn,
    stride_vn,
    first,
    last,
    limits,
    seqlen_k,
    scale_log2,
    TILE_N: tl.constexpr,
    MASKED: tl.constexpr,
    CAUSAL: tl.constexpr,
    EVEN_N: tl.constexpr,
):
    """Adds what keys first … last−1 give to dQ; k_ptrs and v_ptrs [TILE_N, d] point at key 0."""
    cols = tl.arange(0, TILE_N)
    for start in tl.range(first, last, TILE_N):
        if MASKED and not EVEN_N:
            inside = (start + cols < seqlen_k)[:, None]
            k = tl.load(k_ptrs + start * stride_kn, mask=inside, other=0.0)
            v = tl.load(v_ptrs + start * stride_vn, mask=inside, other=0.0)
        else:
            k = tl.load(k_ptrs + start * stride_kn)
            v = tl.load(v_ptrs + start * stride_vn)
        p = tl.exp2(tl.dot(q, tl.trans(k)) * scale_log2 - lse_log2[:, None])
        if MASKED:
            if CAUSAL:
                p = tl.where(start + cols[None, :] <= limits[:, None], p, 0.0)
            else:
                p = tl.where((start + cols < seqlen_k)[None, :], p, 0.0)
        ds = p * (tl.dot(do, tl.trans(v)) - delta[:, None])
        acc_dq = tl.dot(ds.to(k.dtype), k, acc_dq)
    return acc_dq


@triton.jit
def query_kernel(
    Q,
    K,
    V,
    dO,
    LSE,
    delta,
    dQ,
    stride_qb,
    stride_qh,
    stride_qm,
    stride_kb,
    stride_kh,
    stride_kn,
    stride_vb,
    stride_vh,
    stride_vn,
    stride_gb,
    stride_gh,
    stride_gm,
    seqlen_q,
    seqlen_k,
    scale_log2,
    scale,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    CAUSAL: tl.constexpr,
    EVEN_M: tl.constexpr,
    EVEN_N: tl.constexpr,
    BLIND: tl.constexpr,
):
    """read Q K V dO LSE delta ; write dQ

    dQ [batch, heads, seqlen_q, HEAD_DIM], contiguous. Grid: row tiles of queries, heads, batch.
    """
    m_block = tl.program_id(0)
    head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    rows = m_block * TILE_M + tl.arange(0, TILE_M)
    cols, d = tl.arange(0, TILE_N), tl.arange(0, HEAD_DIM)
    kv_head = head // GROUP

    # As in forward: keys that any row sees, and that all see.
    offset = seqlen_k - seqlen_q
    last = seqlen_k
    clear = seqlen_k
    if CAUSAL:
        last = tl.minimum((m_block + 1) * TILE_M, seqlen_q) + offset
        clear = tl.minimum(seqlen_k, m_block * TILE_M + offset + 1)
        if BLIND:
            last, clear = tl.maximum(last, 0), tl.maximum(clear, 0)
    clear = clear // TILE_N * TILE_N

    q_ptrs = Q + batch * stride_qb + head * stride_qh + rows[:, None] * stride_qm + d[None, :]
    do_ptrs = dO + batch * stride_gb + head * stride_gh + rows[:, None] * stride_gm + d[None, :]
    row_base = (batch * tl.num_programs(1) + head) * seqlen_q
    if EVEN_M and not BLIND:
        q, do = tl.load(q_ptrs), tl.load(do_ptrs)
        lse, delta_rows = tl.load(LSE + row_base + rows), tl.load(delta + row_base + rows)
    else:
        read_rows = seqlen_q
        if BLIND:  # a tile that sees nothing reads nothing
            read_rows = tl.where(last > 0, seqlen_q, 0)
        inside = rows < read_rows
        q = tl.load(q_ptrs, mask=inside[:, None], other=0.0)
        do = tl.load(do_ptrs, mask=inside[:, None], other=0.0)
        lse = tl.load(LSE + row_base + rows, mask=inside, other=0.0)
        delta_rows = tl.load(delta + row_base + rows, mask=inside, other=0.0)
    if BLIND:
        lse = tl.where(lse == float("-inf"), 0.0, lse)
    lse_log2 = lse * 1.4426950408889634
    k_ptrs = K + batch * stride_kb + kv_head * stride_kh + cols[:, None] * stride_kn + d[None, :]
    v_ptrs = V + batch * stride_vb + kv_head * stride_vh + cols[:, None] * stride_vn + d[None, :]

    acc_dq = tl.zeros([TILE_M, HEAD_DIM], tl.float32)
    acc_dq = gather_queries(
        acc_dq,
        q,
        do,
        lse_log2,
        delta_rows,
        k_ptrs,
        v_ptrs,
        stride_kn,
        stride_vn,
        0,
        clear,
        rows + offset,
        seqlen_k,
        scale_log2,
        TILE_N,
        False,
        CAUSAL,
        EVEN_N,
    )
    if CAUSAL or not EVEN_N:
        acc_dq = gather_queries(
            acc_dq,
            q,
            do,
            lse_log2,
            delta_rows,
            k_ptrs,
            v_ptrs,
            stride_kn,
            stride_vn,
            clear,
            last,
            rows + offset,
            seqlen_k,
            scale_log2,
            TILE_N,
            True,
            CAUSAL,
            EVEN_N,
        )
    base = (batch * tl.num_programs(1) + head) * seqlen_q * HEAD_DIM
    out = dQ + base + rows[:, None] * HEAD_DIM + d[None, :]
    dq = (acc_dq * scale).to(dQ.dtype.element_ty)
    if EVEN_M:
        tl.store(out, dq)
    else:
        tl.store(out, dq, mask=(rows < seqlen_q)[:, None])


def query_pass(
    problem: Attention,
    read: Mapping[str, torch.Tensor],
    scalars: tuple[float, ...],
    pick: Pick,
) -> torch.Tensor:
    """dQ, contiguous, shaped as Q.

    Args:
        read: Q, K, V, dO, LSE and delta, by these names.
        scalars: the kernel's arguments after its tensors.
    """
    q = read["Q"]
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    launch(
        "query_pass",
        query_kernel,
        (triton.cdiv(problem.seqlen_q, pick.tile_m), problem.heads, problem.batch),
        {**read, "dQ": dq},
        *scalars,
        **constants(problem, pick),
        num_warps=pick.warps,
        num_stages=pick.stages,
    )
    return dq


def query_variant(arch: str, problem: Attention) -> Variant:
    """The kernel as it is compiled for whole tiles of the table."""
    element = f"*{problem.dtype}"
    pick = tiles.queries(arch, problem.head_dim)
    elements = dict.fromkeys(("Q", "K", "V", "dO", "dQ"), element)
    return compiled_with(
        "backward-dq",
        query_kernel,
        {**elements, "LSE": "*fp32", "delta": "*fp32"},
        constants(problem, pick),
        problem,
        pick,
        schedule="gpu-kernels",
        kernel_name="query_pass",
    )
