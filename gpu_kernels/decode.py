"""Decode and split-KV in Triton: few queries over many keys, in splits or whole.

Mirrors the schedules decode and split_kv with packed GQA: the query heads that share a key/value
head are rows of one tile. Keys ascend, where FlashAttention-2's descend: no byte differs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fasim.problem import Attention
from gpu_kernels import tiles
from gpu_kernels.combine import combine, combine_variant
from gpu_kernels.forward import LOG2_E, attend
from gpu_kernels.launch import launch
from gpu_kernels.tiles import Pick
from gpu_kernels.variant import Variant, compiled_with


@triton.jit
def decode_kernel(
    Q,
    K,
    V,
    O,
    LSE,
    stride_qb,
    stride_qh,
    stride_qm,
    stride_kb,
    stride_kh,
    stride_kn,
    stride_vb,
    stride_vh,
    stride_vn,
    stride_ob,
    stride_os,
    stride_oh,
    stride_om,
    stride_lb,
    stride_ls,
    stride_lh,
    stride_lm,
    seqlen_q,
    seqlen_k,
    scale_log2,
    SPLITS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    CAUSAL: tl.constexpr,
    EVEN_N: tl.constexpr,
):
    """read Q K V ; write O LSE

    Row r is query r // GROUP of head r % GROUP of its key/value head. A split takes as many tiles
    of keys as the others, the last ones fewer or none, and leaves its own normalised O and LSE:
    O [batch, splits, heads, seqlen_q, HEAD_DIM], LSE [batch, splits, heads, seqlen_q] by strides.
    Grid: row tiles × splits, kv_heads, batch.
    """
    split, m_block = tl.program_id(0) % SPLITS, tl.program_id(0) // SPLITS
    kv_head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    rows = m_block * TILE_M + tl.arange(0, TILE_M)
    query, head = rows // GROUP, kv_head * GROUP + rows % GROUP
    cols, d = tl.arange(0, TILE_N), tl.arange(0, HEAD_DIM)

    # Keys that any row sees, and that all see; of these, the split's own.
    offset = seqlen_k - seqlen_q
    last = seqlen_k
    clear = seqlen_k
    if CAUSAL:
        end = (tl.minimum((m_block + 1) * TILE_M, seqlen_q * GROUP) - 1) // GROUP
        last = tl.maximum(end + offset + 1, 0)
        clear = tl.maximum(m_block * TILE_M // GROUP + offset + 1, 0)
    part = tl.cdiv(tl.cdiv(seqlen_k, TILE_N), SPLITS) * TILE_N
    first = split * part
    last = tl.minimum(last, first + part)
    clear = tl.minimum(tl.maximum(clear // TILE_N * TILE_N, first), first + part)
    clear = tl.minimum(clear, seqlen_k // TILE_N * TILE_N)

    read_rows = tl.where(last > first, seqlen_q * GROUP, 0)  # who sees nothing reads nothing
    q_ptrs = Q + batch * stride_qb + head[:, None] * stride_qh + query[:, None] * stride_qm
    q = tl.load(q_ptrs + d[None, :], mask=(rows < read_rows)[:, None], other=0.0)
    k_ptrs = K + batch * stride_kb + kv_head * stride_kh + cols[None, :] * stride_kn + d[:, None]
    v_ptrs = V + batch * stride_vb + kv_head * stride_vh + cols[:, None] * stride_vn + d[None, :]

    row_max = tl.full([TILE_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([TILE_M], tl.float32)
    acc_o = tl.zeros([TILE_M, HEAD_DIM], tl.float32)
    acc_o, row_max, row_sum, _, _ = attend(
        q,
        acc_o,
        row_max,
        row_sum,
        k_ptrs + first * stride_kn,
        v_ptrs + first * stride_vn,
        stride_kn,
        stride_vn,
        first,
        clear,
        query + offset,
        seqlen_k,
        scale_log2,
        TILE_N,
        False,
        CAUSAL,
        EVEN_N,
        True,
    )
    if CAUSAL or not EVEN_N:
        masked = tl.maximum(first, clear)
        acc_o, row_max, row_sum, _, _ = attend(
            q,
            acc_o,
            row_max,
            row_sum,
            k_ptrs + masked * stride_kn,
            v_ptrs + masked * stride_vn,
            stride_kn,
            stride_vn,
            masked,
            tl.minimum(last, seqlen_k),
            query + offset,
            seqlen_k,
            scale_log2,
            TILE_N,
            True,
            CAUSAL,
            EVEN_N,
            True,
        )

    inverse = tl.where(row_sum == 0.0, 0.0, 1.0 / row_sum)
    o = (acc_o * inverse[:, None]).to(O.dtype.element_ty)
    lse = (row_max * scale_log2 + tl.log2(row_sum)) * 0.6931471805599453
    inside = rows < seqlen_q * GROUP
    o_ptrs = O + batch * stride_ob + split * stride_os
    o_ptrs += head[:, None] * stride_oh + query[:, None] * stride_om + d[None, :]
    lse_ptrs = LSE + batch * stride_lb + split * stride_ls + head * stride_lh + query * stride_lm
    tl.store(o_ptrs, o, mask=inside[:, None])
    tl.store(lse_ptrs, lse, mask=inside)


def constants(problem: Attention, pick: Pick, num_splits: int) -> dict[str, object]:
    """The constexpr arguments of the first kernel."""
    return {
        "SPLITS": num_splits,
        "GROUP": problem.group,
        "HEAD_DIM": problem.head_dim,
        "TILE_M": pick.tile_m,
        "TILE_N": pick.tile_n,
        "CAUSAL": problem.causal,
        "EVEN_N": problem.seqlen_k % pick.tile_n == 0,
    }


def decode(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = False,
    num_splits: int = 1,
    pick: Pick | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(O, LSE), contiguous; in two kernels where the keys are split.

    Args:
        q: [batch, heads, seqlen_q, head_dim], k and v [batch, kv_heads, seqlen_k, head_dim], in
            any strides with contiguous head_dim.
        num_splits: parts of the keys that have blocks of their own.
        pick: tile and warps; the table's unless given.

    Raises:
        ProblemError: shapes or a dtype that the kernels do not take.
    """
    problem = tiles.problem_of(q, k, v, causal=causal)
    pick = pick or tiles.decode()
    shape = (problem.batch, num_splits, problem.heads, problem.seqlen_q)
    splits = num_splits > 1
    o_dtype = torch.float32 if splits else q.dtype
    o = torch.empty((*shape, problem.head_dim), dtype=o_dtype, device=q.device)
    lse = torch.empty(shape, dtype=torch.float32, device=q.device)
    rows = problem.seqlen_q * problem.group
    suffix = "_partial" if splits else ""
    launch(
        "split_kv" if splits else "decode",
        decode_kernel,
        (triton.cdiv(rows, pick.tile_m) * num_splits, problem.kv_heads, problem.batch),
        {"Q": q, "K": k, "V": v, f"O{suffix}": o, f"LSE{suffix}": lse},
        *q.stride()[:3],
        *k.stride()[:3],
        *v.stride()[:3],
        *o.stride()[:4],
        *lse.stride(),
        problem.seqlen_q,
        problem.seqlen_k,
        problem.scale * LOG2_E,
        **constants(problem, pick, num_splits),
        num_warps=pick.warps,
        num_stages=pick.stages,
    )
    return combine(o, lse, problem, q.dtype) if splits else (o[:, 0], lse[:, 0])


def variants(arch: str) -> list[Variant]:  # noqa: ARG001 - as every module has it
    """The kernels as they are compiled for whole tiles of the table, the same everywhere."""
    found = []
    for problem in tiles.usual_problems():
        pick, num_splits = tiles.decode(), 4
        element = f"*{problem.dtype}"
        read = {"Q": element, "K": element, "V": element, "LSE": "*fp32"}
        for name, output, splits in (("decode", element, 1), ("split_kv", "*fp32", num_splits)):
            found.append(
                compiled_with(
                    name.replace("_", "-"),
                    decode_kernel,
                    {**read, "O": output},
                    constants(problem, pick, splits),
                    problem,
                    pick,
                    schedule=f"gpu-kernels-{name.replace('_', '-')}",
                    kernel_name=name,
                )
            )
        if not problem.causal:
            found.append(combine_variant(problem, num_splits, pick.tile_n))
    return found
