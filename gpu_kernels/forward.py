"""FlashAttention-2 forward in Triton: a block a row tile, K and V ascending.

Mirrors implementation `gpu-kernels` of schedule flash2: the same tiles, visited blocks, accesses.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fasim.problem import Attention
from gpu_kernels import tiles
from gpu_kernels.launch import launch
from gpu_kernels.tiles import Pick
from gpu_kernels.variant import Variant, compiled_with

LOG2_E = 1.4426950408889634


@triton.jit
def attend(
    q,
    acc_o,
    row_max,
    row_sum,
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
    BLIND: tl.constexpr,
):
    """Online softmax over keys first … last−1, as FlashAttention-2 keeps it: base 2, unscaled.

    k_ptrs [d, TILE_N] and v_ptrs [TILE_N, d] point at key `first`; row r sees keys up to
    limits[r]. MASKED: some score may be hidden; BLIND: some row may see nothing at all.
    """
    cols = tl.arange(0, TILE_N)
    for start in tl.range(first, last, TILE_N):
        if MASKED and not EVEN_N:
            k = tl.load(k_ptrs, mask=(start + cols < seqlen_k)[None, :], other=0.0)
        else:
            k = tl.load(k_ptrs)
        s = tl.dot(q, k)
        if MASKED:
            if CAUSAL:
                s = tl.where(start + cols[None, :] <= limits[:, None], s, float("-inf"))
            else:
                s = tl.where((start + cols < seqlen_k)[None, :], s, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(s, 1))
        shift = new_max * scale_log2
        if BLIND and MASKED:
            shift = tl.where(new_max == float("-inf"), 0.0, shift)
        p = tl.exp2(s * scale_log2 - shift[:, None])
        correction = tl.exp2(row_max * scale_log2 - shift)
        row_sum = row_sum * correction + tl.sum(p, 1)
        acc_o = acc_o * correction[:, None]
        if MASKED and not EVEN_N:
            v = tl.load(v_ptrs, mask=(start + cols < seqlen_k)[:, None], other=0.0)
        else:
            v = tl.load(v_ptrs)
        acc_o = tl.dot(p.to(v.dtype), v, acc_o)
        row_max = new_max
        k_ptrs += TILE_N * stride_kn
        v_ptrs += TILE_N * stride_vn
    return acc_o, row_max, row_sum, k_ptrs, v_ptrs


@triton.jit
def forward_kernel(
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
    stride_oh,
    stride_om,
    seqlen_q,
    seqlen_k,
    scale_log2,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    CAUSAL: tl.constexpr,
    EVEN_M: tl.constexpr,
    EVEN_N: tl.constexpr,
    BLIND: tl.constexpr,
):
    """read Q K V ; write O LSE

    Q, O [batch, heads, seqlen_q, HEAD_DIM], K, V [batch, heads / GROUP, seqlen_k, HEAD_DIM] by
    strides, the last one 1; LSE [batch, heads, seqlen_q], natural. Grid: row tiles, heads, batch.
    """
    m_block, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    kv_head = head // GROUP
    rows = m_block * TILE_M + tl.arange(0, TILE_M)
    cols, d = tl.arange(0, TILE_N), tl.arange(0, HEAD_DIM)

    # Keys that any row of the tile sees: 0 … last−1; that all see, in whole tiles: … clear−1.
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
    if BLIND:  # a tile that sees nothing reads nothing
        read_rows = tl.where(last > 0, seqlen_q, 0)
        q = tl.load(q_ptrs, mask=(rows < read_rows)[:, None], other=0.0)
    elif EVEN_M:
        q = tl.load(q_ptrs)
    else:
        q = tl.load(q_ptrs, mask=(rows < seqlen_q)[:, None], other=0.0)
    k_ptrs = K + batch * stride_kb + kv_head * stride_kh + cols[None, :] * stride_kn + d[:, None]
    v_ptrs = V + batch * stride_vb + kv_head * stride_vh + cols[:, None] * stride_vn + d[None, :]

    row_max = tl.full([TILE_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([TILE_M], tl.float32)
    acc_o = tl.zeros([TILE_M, HEAD_DIM], tl.float32)
    acc_o, row_max, row_sum, k_ptrs, v_ptrs = attend(
        q,
        acc_o,
        row_max,
        row_sum,
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
        BLIND,
    )
    if CAUSAL or not EVEN_N:
        acc_o, row_max, row_sum, _, _ = attend(
            q,
            acc_o,
            row_max,
            row_sum,
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
            BLIND,
        )

    inverse = 1.0 / row_sum
    if BLIND:
        inverse = tl.where(row_sum == 0.0, 0.0, inverse)
    o = (acc_o * inverse[:, None]).to(O.dtype.element_ty)
    lse = (row_max * scale_log2 + tl.log2(row_sum)) * 0.6931471805599453
    o_ptrs = O + batch * stride_ob + head * stride_oh + rows[:, None] * stride_om + d[None, :]
    lse_ptrs = LSE + (batch * tl.num_programs(1) + head) * seqlen_q + rows
    if EVEN_M:
        tl.store(o_ptrs, o)
        tl.store(lse_ptrs, lse)
    else:
        tl.store(o_ptrs, o, mask=(rows < seqlen_q)[:, None])
        tl.store(lse_ptrs, lse, mask=rows < seqlen_q)


def constants(problem: Attention, pick: Pick) -> dict[str, object]:
    """The constexpr arguments that a problem and a tile make."""
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


def forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = False,
    pick: Pick | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(O, LSE) of attention; a row that sees nothing gives 0 and −inf.

    Args:
        q: [batch, heads, seqlen_q, head_dim], k and v [batch, kv_heads, seqlen_k, head_dim], in
            any strides with contiguous head_dim.
        pick: tile, warps and stages; the table's for this GPU unless given.

    Raises:
        ProblemError: shapes or a dtype that the kernel does not take.
    """
    problem = tiles.problem_of(q, k, v, causal=causal)
    pick = pick or tiles.forward(tiles.architecture(q), problem.head_dim)
    o = torch.empty_like(q)
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    launch(
        "flash2_forward",
        forward_kernel,
        (triton.cdiv(problem.seqlen_q, pick.tile_m), problem.heads, problem.batch),
        {"Q": q, "K": k, "V": v, "O": o, "LSE": lse},
        *q.stride()[:3],
        *k.stride()[:3],
        *v.stride()[:3],
        *o.stride()[:3],
        problem.seqlen_q,
        problem.seqlen_k,
        problem.scale * LOG2_E,
        **constants(problem, pick),
        num_warps=pick.warps,
        num_stages=pick.stages,
    )
    return o, lse


def variants(arch: str) -> list[Variant]:
    """The kernel as it is compiled for whole tiles of the table."""
    found = []
    for problem in tiles.usual_problems():
        pick = tiles.forward(arch, problem.head_dim)
        element = f"*{problem.dtype}"
        found.append(
            compiled_with(
                "forward",
                forward_kernel,
                {"Q": element, "K": element, "V": element, "O": element, "LSE": "*fp32"},
                constants(problem, pick),
                problem,
                pick,
                schedule="gpu-kernels",
                kernel_name="flash2_forward",
            )
        )
    return found
