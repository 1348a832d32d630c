"""FlashAttention-1 forward (Dao et al. 2022, Algorithm 1): outer loop over K/V, inner over Q.

One block a head. O, row_max and row_sum live in global memory: every step over K/V reads them
again and writes them back normalised.
"""

from __future__ import annotations

from fasim.problem import Attention
from fasim.schedules.chain import KEY, QUERY, ROWS, axes_of
from fasim.schedules.language import LOG2_E, Block, Kernel, Tensor
from fasim.schedules.mapping import Mapping
from fasim.schedules.tiling import Tiling


def flash1_forward(block: Block, problem: Attention) -> None:
    """read Q, K, V, O, row_max, row_sum; write O, row_max, row_sum."""
    scale_log2 = problem.scale * LOG2_E
    d = block.all("d")
    for m_rows in block.loop("q"):  # line 2: initialise in global memory
        block.store("O", block.full(0.0, m_rows, d).to(problem.dtype), m_rows)
        block.store("row_max", block.full(float("-inf"), m_rows), m_rows)
        block.store("row_sum", block.full(0.0, m_rows), m_rows)
    for n_rows in block.loop("k"):
        k, v = block.load("K", n_rows), block.load("V", n_rows)
        for m_rows in block.loop("q", seen_from=n_rows):
            q, o = block.load("Q", m_rows), block.load("O", m_rows)
            old_max, old_sum = block.load("row_max", m_rows), block.load("row_sum", m_rows)
            s = block.mask(block.matmul(q, k.T, name="S"))
            tile_max = s.row_max()  # line 10
            p = (s * scale_log2 - tile_max.finite() * scale_log2).exp2()
            tile_sum = p.row_sum()
            new_max = tile_max.maximum(old_max)  # line 11
            shift = new_max.finite() * scale_log2
            old_weight = (old_max * scale_log2 - shift).exp2() * old_sum
            tile_weight = (tile_max * scale_log2 - shift).exp2()
            new_sum = old_weight + tile_weight * tile_sum
            inverse = new_sum.inverse()
            pv = block.matmul(block.dropout(p).to(problem.dtype), v, name="O")
            o = o.to("fp32") * (old_weight * inverse) + pv * (tile_weight * inverse)
            block.store("O", o.to(problem.dtype), m_rows)  # line 12
            block.store("row_max", new_max, m_rows)  # line 13
            block.store("row_sum", new_sum, m_rows)


def paper_tile(elements: int, head_dim: int) -> tuple[int, int]:
    """Br × Bc of Algorithm 1, line 1, in whole fragments of 16 rows.

    Bc = ⌊M/4d⌋ and Br = min(Bc, d): tiles of Q, K, V and O fill the M elements of a block's
    shared memory; S and P stay in registers.
    """
    tile_n = max(16, elements // (4 * head_dim) // 16 * 16)
    return max(16, min(tile_n, head_dim) // 16 * 16), tile_n


def kernels(problem: Attention, tiling: Tiling, mapping: Mapping) -> tuple[Kernel, ...]:
    """The chain: one kernel, parallel over batch and heads only."""
    dtype = problem.dtype
    return (
        Kernel(
            name="flash1_forward",
            program=flash1_forward,
            problem=problem,
            grid=("head", "batch"),
            lengths=axes_of(problem),
            tiles={"q": tiling.tile_m, "k": tiling.tile_n},
            tensors=(
                Tensor("Q", QUERY, dtype),
                Tensor("K", KEY, dtype),
                Tensor("V", KEY, dtype),
                Tensor("O", QUERY, dtype),
                Tensor("row_max", ROWS, "fp32"),
                Tensor("row_sum", ROWS, "fp32"),
            ),
            mapping=mapping,
        ),
    )
