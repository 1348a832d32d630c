"""Backward in two passes without atomics: delta; dK and dV of a row tile of keys; dQ of queries.

Mirrors the backward of implementation `gpu-kernels`, schedule two_pass: both passes compute S and
dP again. Heads that share keys leave a dK and dV each, which a last kernel adds up.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl

from fasim.problem import Attention
from fasim.schedules.gradients import ROWS_PER_SUM_BLOCK
from fasim.schedules.two_pass import PREPROCESS_ROWS
from gpu_kernels import tiles
from gpu_kernels.forward import LOG2_E
from gpu_kernels.launch import launch
from gpu_kernels.tiles import Pick
from gpu_kernels.variant import Variant, compiled_with

SUM_WARPS = 8


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


def constants(problem: Attention, pick: Pick) -> dict[str, object]:
    """The constexpr arguments of both passes."""
    return {
        "GROUP": problem.group,
        "HEAD_DIM": problem.head_dim,
        "TILE_M": pick.tile_m,
        "TILE_N": pick.tile_n,
        "CAUSAL": problem.causal,
        "EVEN_M": problem.seqlen_q % pick.tile_m == 0,
        "EVEN_N": problem.seqlen_k % pick.tile_n == 0,
        "BLIND": problem.causal and problem.seqlen_q > problem.seqlen_k,
    }


def backward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    do: torch.Tensor,
    *,
    causal: bool = False,
    keys: Pick | None = None,
    queries: Pick | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dQ, dK, dV), contiguous, shaped as q, k and v.

    Args:
        q, k, v, o, lse: as `forward` took and gave them.
        do: the gradient of o, shaped as q, in any strides with contiguous head_dim.
        keys, queries: tile, warps and stages of the two passes; the table's unless given.

    Raises:
        ProblemError: shapes or a dtype that the kernels do not take.
    """
    problem = tiles.problem_of(q, k, v, causal=causal)
    arch = tiles.architecture(q)
    keys = keys or tiles.keys(arch, problem.head_dim)
    queries = queries or tiles.queries(arch, problem.head_dim)
    delta = preprocess(o, do)
    read = {"Q": q, "K": k, "V": v, "dO": do, "LSE": lse, "delta": delta}
    scalars = (
        *(stride for tensor in (q, k, v, do) for stride in tensor.stride()[:3]),
        problem.seqlen_q,
        problem.seqlen_k,
        problem.scale * LOG2_E,
        problem.scale,
    )
    dk, dv = _key_value_pass(problem, read, scalars, keys)
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    launch(
        "query_pass",
        query_kernel,
        (triton.cdiv(problem.seqlen_q, queries.tile_m), problem.heads, problem.batch),
        {**read, "dQ": dq},
        *scalars,
        **constants(problem, queries),
        num_warps=queries.warps,
        num_stages=queries.stages,
    )
    return dq, dk, dv


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
        num_warps=SUM_WARPS,
    )
    return delta


def _key_value_pass(
    problem: Attention,
    read: Mapping[str, torch.Tensor],
    scalars: tuple[float, ...],
    pick: Pick,
) -> tuple[torch.Tensor, torch.Tensor]:
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
    return group_sum("dK", dk, problem.kv_heads), group_sum("dV", dv, problem.kv_heads)


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
        num_warps=SUM_WARPS,
    )
    return grad


def variants(arch: str) -> list[Variant]:
    """The kernels as they are compiled for whole tiles of the table."""
    found = []
    for problem in tiles.usual_problems():
        element = f"*{problem.dtype}"
        rows = Pick(PREPROCESS_ROWS, PREPROCESS_ROWS, SUM_WARPS)
        sums = Pick(ROWS_PER_SUM_BLOCK, ROWS_PER_SUM_BLOCK, SUM_WARPS)
        keys, queries = (pick(arch, problem.head_dim) for pick in (tiles.keys, tiles.queries))
        read = dict.fromkeys(("Q", "K", "V", "dO"), element) | {"LSE": "*fp32", "delta": "*fp32"}
        head = {"HEAD_DIM": problem.head_dim}
        masked = [
            (
                "backward-dkdv",
                key_value_kernel,
                {**read, "dK": element, "dV": element},
                constants(problem, keys),
                keys,
                "key_value_pass",
            ),
            (
                "backward-dq",
                query_kernel,
                {**read, "dQ": element},
                constants(problem, queries),
                queries,
                "query_pass",
            ),
        ]
        plain = [
            (
                "backward-preprocess",
                preprocess_kernel,
                {"O": element, "dO": element, "delta": "*fp32"},
                {**head, "TILE_M": PREPROCESS_ROWS, "EVEN_M": True},
                rows,
                "preprocess",
            ),
            (
                "backward-group-sum",
                group_sum_kernel,
                {"heads_grad": element, "grad": element},
                {**head, "GROUP": 4, "TILE_N": ROWS_PER_SUM_BLOCK},
                sums,
                "sum_dK",
            ),
        ]
        for name, kernel, pointers, fixed, pick, kernel_name in (
            masked if problem.causal else masked + plain
        ):
            found.append(
                compiled_with(
                    name,
                    kernel,
                    pointers,
                    fixed,
                    problem,
                    pick,
                    schedule="gpu-kernels",
                    kernel_name=kernel_name,
                )
            )
    return found
