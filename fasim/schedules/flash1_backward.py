"""FlashAttention-1 backward (Dao et al. 2022, Algorithm 4): outer loop over K/V, inner over Q.

One block a head. P is recomputed from row_max and row_sum; dQ lives in global memory, and every
step over K/V reads it again and writes it back.
"""

from __future__ import annotations

from fasim.problem import Attention
from fasim.schedules.chain import KEY, QUERY, ROWS, axes_of
from fasim.schedules.gradients import group_sums, key_gradients
from fasim.schedules.language import LOG2_E, Block, Kernel, Tensor
from fasim.schedules.mapping import Mapping
from fasim.schedules.tiling import Tiling


def flash1_backward(block: Block, problem: Attention) -> None:
    """read Q, K, V, O, dO, dQ, row_max, row_sum; write dQ, dK, dV."""
    scale_log2 = problem.scale * LOG2_E
    dk, dv = key_gradients(problem)
    d = block.all("d")
    for m_rows in block.loop("q"):  # line 5: initialise in global memory
        block.store("dQ", block.full(0.0, m_rows, d).to(problem.dtype), m_rows)
    for n_rows in block.loop("k"):
        k, v = block.load("K", n_rows), block.load("V", n_rows)
        acc_dk, acc_dv = block.full(0.0, n_rows, d), block.full(0.0, n_rows, d)
        for m_rows in block.loop("q", seen_from=n_rows):
            q, do = block.load("Q", m_rows), block.load("dO", m_rows)
            o, dq = block.load("O", m_rows), block.load("dQ", m_rows)
            row_max, row_sum = block.load("row_max", m_rows), block.load("row_sum", m_rows)
            s = block.mask(block.matmul(q, k.T, name="S"))
            shift = row_max.finite() * scale_log2
            p = (s * scale_log2 - shift).exp2() * row_sum.inverse()  # line 13
            p_operand = block.dropout(p).to(problem.dtype)
            dp = block.dropout(block.matmul(do, v.T, name="dP"))  # line 17
            delta = (do.to("fp32") * o.to("fp32")).row_sum()  # line 19
            ds = (p * (dp - delta)).to(problem.dtype)  # line 20
            acc_dv = block.matmul(p_operand.T, do, acc=acc_dv, name="dV")  # line 16
            step = block.matmul(ds, k, name="dQ") * problem.scale
            block.store("dQ", (dq.to("fp32") + step).to(problem.dtype), m_rows)  # line 21
            acc_dk = block.matmul(ds.T, q, acc=acc_dk, name="dK")  # line 22
        block.store(dk.name, (acc_dk * problem.scale).to(problem.dtype), n_rows)
        block.store(dv.name, acc_dv.to(problem.dtype), n_rows)


def paper_tile(elements: int, head_dim: int) -> tuple[int, int]:
    """Br × Bc of Algorithm 4, line 1, as far as they fit, in rows that several warps can share.

    The paper takes forward's tiles, Bc = ⌊M/4d⌋. With dO and dQ beside Q and O, K and V, and P
    and dS on their way into products, that is more than the M elements of a block's shared
    memory: Bc is the largest that fits, Br = min(Bc, d).
    """
    tile_n = 16
    while _elements(tile_n // 32 * 32 + 32, head_dim) <= elements:
        tile_n = tile_n // 32 * 32 + 32
    return _rows(tile_n, head_dim), tile_n


def _rows(tile_n: int, head_dim: int) -> int:
    return max(16, min(tile_n, head_dim) // 32 * 32)


def _elements(tile_n: int, head_dim: int) -> int:
    """Four tiles of rows, two of keys, P and dS."""
    rows = _rows(tile_n, head_dim)
    return 4 * rows * head_dim + 2 * tile_n * head_dim + 2 * rows * tile_n


def kernels(problem: Attention, tiling: Tiling, mapping: Mapping) -> tuple[Kernel, ...]:
    """The chain: one kernel, parallel over batch and heads only, and sums over a group."""
    dtype = problem.dtype
    main = Kernel(
        name="flash1_backward",
        program=flash1_backward,
        problem=problem,
        grid=("head", "batch"),
        lengths=axes_of(problem),
        tiles={"q": tiling.tile_m, "k": tiling.tile_n},
        tensors=(
            Tensor("Q", QUERY, dtype),
            Tensor("K", KEY, dtype),
            Tensor("V", KEY, dtype),
            Tensor("O", QUERY, dtype),
            Tensor("dO", QUERY, dtype),
            Tensor("row_max", ROWS, "fp32"),
            Tensor("row_sum", ROWS, "fp32"),
            Tensor("dQ", QUERY, dtype),
            *key_gradients(problem),
        ),
        mapping=mapping,
    )
    return (main, *group_sums(problem))
