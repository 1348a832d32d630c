"""The first pass of backward: dK and dV, a block a row tile of keys."""

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
def gather_keys(
    acc_dk,
    acc_dv,
    k,
    v,
    q_ptrs,
    do_ptrs,
    lse_ptrs,
    delta_ptrs,
    stride_qm,
    stride_gm,
    first,
    last,
    offset,
    keys,
    seqlen_q,
    scale_log2,
    TILE_M: tl.constexpr,
    MASKED: tl.constexpr,
    BOUNDED: tl.constexpr,
    BLIND: tl.constexpr,
):
    """Adds what queries first … last−1 give to dK and dV of the block's keys.

    Works on Sᵀ and dPᵀ, so that warps own rows of keys throughout. MASKED: queries may not see
    some keys; BOUNDED: the last tile may be cut short.
    """
    rows = tl.arange(0, TILE_M)
    for start in tl.range(first, last, TILE_M):
        if BOUNDED:
            inside = start + rows < seqlen_q
            q = tl.load(q_ptrs + start * stride_qm, mask=inside[:, None], other=0.0)
            do = tl.load(do_ptrs + start * stride_gm, mask=inside[:, None], other=0.0)
            lse = tl.load(lse_ptrs + start, mask=inside, other=0.0)
            delta = tl.load(delta_ptrs + start, mask=inside, other=0.0)
        else:
            q = tl.load(q_ptrs + start * stride_qm)
            do = tl.load(do_ptrs + start * stride_gm)
            lse = tl.load(lse_ptrs + start)
            delta = tl.load(delta_ptrs + start)
        if BLIND and MASKED:
            lse = tl.where(lse == float("-inf"), 0.0, lse)
        s_t = tl.dot(k, tl.trans(q))
        p_t = tl.exp2(s_t * scale_log2 - (lse * 1.4426950408889634)[None, :])
        if MASKED:
            p_t = tl.where(keys[:, None] <= (start + rows + offset)[None, :], p_t, 0.0)
        acc_dv = tl.dot(p_t.to(do.dtype), do, acc_dv)
        dp_t = tl.dot(v, tl.trans(do))
        ds_t = p_t * (dp_t - delta[None, :])
        acc_dk = tl.dot(ds_t.to(q.dtype), q, acc_dk)
    return acc_dk, acc_dv


@triton.jit
def key_value_kernel(
    Q,
    K,
    V,
    dO,
    LSE,
    delta,
    dK,
    dV,
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
    """read Q K V dO LSE delta ; write dK dV

    dK, dV [batch, heads, seqlen_k, HEAD_DIM], one a query head. Grid: row tiles of keys, heads,
    batch.
    """
    n_block = tl.program_id(0)
    head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    keys, d = n_block * TILE_N + tl.arange(0, TILE_N), tl.arange(0, HEAD_DIM)
    rows = tl.arange(0, TILE_M)
    kv_head = head // GROUP
    k_ptrs = K + batch * stride_kb + kv_head * stride_kh + keys[:, None] * stride_kn + d[None, :]
    v_ptrs = V + batch * stride_vb + kv_head * stride_vh + keys[:, None] * stride_vn + d[None, :]
    if EVEN_N:
        k, v = tl.load(k_ptrs), tl.load(v_ptrs)
    else:
        k = tl.load(k_ptrs, mask=(keys < seqlen_k)[:, None], other=0.0)
        v = tl.load(v_ptrs, mask=(keys < seqlen_k)[:, None], other=0.0)
    q_ptrs = Q + batch * stride_qb + head * stride_qh + rows[:, None] * stride_qm + d[None, :]
    do_ptrs = dO + batch * stride_gb + head * stride_gh + rows[:, None] * stride_gm + d[None, :]
    row_base = (batch * tl.num_programs(1) + head) * seqlen_q
    lse_ptrs, delta_ptrs = LSE + row_base + rows, delta + row_base + rows

    acc_dk = tl.zeros([TILE_N, HEAD_DIM], tl.float32)
    acc_dv = tl.zeros([TILE_N, HEAD_DIM], tl.float32)
    offset = seqlen_k - seqlen_q
    clear = 0  # from here on a query sees all keys of the tile
    if CAUSAL:
        seen = tl.maximum(n_block * TILE_N - offset, 0) // TILE_M * TILE_M
        clear = tl.minimum((n_block + 1) * TILE_N, seqlen_k) - 1 - offset
        clear = tl.cdiv(tl.maximum(clear, 0), TILE_M) * TILE_M
        acc_dk, acc_dv = gather_keys(
            acc_dk,
            acc_dv,
            k,
            v,
            q_ptrs,
            do_ptrs,
            lse_ptrs,
            delta_ptrs,
            stride_qm,
            stride_gm,
            seen,
            tl.minimum(clear, seqlen_q),
            offset,
            keys,
            seqlen_q,
            scale_log2,
            TILE_M,
            True,
            not EVEN_M,
            BLIND,
        )
    whole = seqlen_q // TILE_M * TILE_M
    acc_dk, acc_dv = gather_keys(
        acc_dk,
        acc_dv,
        k,
        v,
        q_ptrs,
        do_ptrs,
        lse_ptrs,
        delta_ptrs,
        stride_qm,
        stride_gm,
        clear,
        whole,
        offset,
        keys,
        seqlen_q,
        scale_log2,
        TILE_M,
        False,
        False,
        BLIND,
    )
    if not EVEN_M:
        acc_dk, acc_dv = gather_keys(
            acc_dk,
            acc_dv,
            k,
            v,
            q_ptrs,
            do_ptrs,
            lse_ptrs,
            delta_ptrs,
            stride_qm,
            stride_gm,
            tl.maximum(clear, whole),
            seqlen_q,
            offset,
            keys,
            seqlen_q,
            scale_log2,
            TILE_M,
            False,
            True,
            BLIND,
        )

    base = (batch * tl.num_programs(1) + head) * seqlen_k * HEAD_DIM
    out = base + keys[:, None] * HEAD_DIM + d[None, :]
    dk, dv = (acc_dk * scale).to(dK.dtype.element_ty), acc_dv.to(dV.dtype.element_ty)
    if EVEN_N:
        tl.store(dK + out, dk)
        tl.store(dV + out, dv)
    else:
        tl.store(dK + out, dk, mask=(keys < seqlen_k)[:, None])
        tl.store(dV + out, dv, mask=(keys < seqlen_k)[:, None])


def key_value_pass(
    problem: Attention,
    read: Mapping[str, torch.Tensor],
    scalars: tuple[float, ...],
    pick: Pick,
) -> tuple[torch.Tensor, torch.Tensor]:
    """dK and dV [batch, heads, seqlen_k, head_dim], one a query head.

    Args:
        read: Q, K, V, dO, LSE and delta, by these names.
        scalars: the kernel's arguments after its tensors.
    """
    shape = (problem.batch, problem.heads, problem.seqlen_k, problem.head_dim)
    k = read["K"]
    dk, dv = (torch.empty(shape, dtype=k.dtype, device=k.device) for _ in range(2))
    names = ("dK", "dV") if problem.group == 1 else ("dK_heads", "dV_heads")
    launch(
        "key_value_pass",
        key_value_kernel,
        (triton.cdiv(problem.seqlen_k, pick.tile_n), problem.heads, problem.batch),
        {**read, names[0]: dk, names[1]: dv},
        *scalars,
        **constants(problem, pick),
        num_warps=pick.warps,
        num_stages=pick.stages,
    )
    return dk, dv


def key_value_variant(arch: str, problem: Attention) -> Variant:
    """The kernel as it is compiled for whole tiles of the table."""
    element = f"*{problem.dtype}"
    pick = tiles.keys(arch, problem.head_dim)
    elements = dict.fromkeys(("Q", "K", "V", "dO", "dK", "dV"), element)
    return compiled_with(
        "backward-dkdv",
        key_value_kernel,
        {**elements, "LSE": "*fp32", "delta": "*fp32"},
        constants(problem, pick),
        problem,
        pick,
        schedule="gpu-kernels",
        kernel_name="key_value_pass",
    )
