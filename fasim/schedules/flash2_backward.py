"""FlashAttention-2 backward (Dao 2023, Algorithm 2): one block a tile of K/V, a loop over Q.

P is recomputed from LSE. dK and dV stay in registers and are written once; each step adds its
part of dQ to global memory, atomically and in FP32. delta comes from a kernel before, the
rounding of dQ from one after.
"""

from __future__ import annotations

from collections.abc import Callable

from fasim.problem import Attention
from fasim.schedules.chain import KEY, QUERY, ROWS, axes_of
from fasim.schedules.gradients import STREAMING, convert_kernel, group_sums, key_gradients
from fasim.schedules.language import LOG2_E, Block, Kernel, Rows, Tensor, Tile
from fasim.schedules.mapping import Mapping
from fasim.schedules.tiling import Tiling


def preprocess(block: Block, _: Attention) -> None:
    """read O, dO; write delta = rowsum(dO ∘ O), and zeros where dQ will be added up."""
    m_rows = block.rows("q")
    o, do = block.load("O", m_rows), block.load("dO", m_rows)
    block.store("delta", (o.to("fp32") * do.to("fp32")).row_sum(), m_rows)
    block.store("dQ_accum", block.full(0.0, m_rows, block.all("d")), m_rows)


def flash2_backward(block: Block, problem: Attention) -> None:
    """read Q, K, V, dO, LSE, delta; add to dQ_accum; write dK, dV."""
    dk, dv = key_gradients(problem)
    n_rows = block.rows("k")
    acc_dk, acc_dv = walk_queries(block, problem, n_rows, "LSE", log2_of)
    block.store(dk.name, (acc_dk * problem.scale).to(problem.dtype), n_rows)
    block.store(dv.name, acc_dv.to(problem.dtype), n_rows)


def log2_of(lse: Tile) -> Tile:
    """LSE to the base 2; 0 for a row that sees nothing."""
    return lse.finite() * LOG2_E


def walk_queries(
    block: Block, problem: Attention, n_rows: Rows, lse_name: str, to_log2: Callable[[Tile], Tile]
) -> tuple[Tile, Tile]:
    """The loop over Q: adds to dQ_accum, and gives a key tile's dK / scale and dV in FP32.

    Args:
        lse_name: the tensor that P is recomputed from.
        to_log2: what makes logarithms to the base 2 of it.
    """
    scale_log2 = problem.scale * LOG2_E
    d = block.all("d")
    k, v = block.load("K", n_rows), block.load("V", n_rows)
    acc_dk, acc_dv = block.full(0.0, n_rows, d), block.full(0.0, n_rows, d)
    for m_rows in block.loop("q", seen_from=n_rows):
        q, do = block.load("Q", m_rows), block.load("dO", m_rows)
        lse, delta = block.load(lse_name, m_rows), block.load("delta", m_rows)
        s = block.mask(block.matmul(q, k.T, name="S"))
        p = (s * scale_log2 - to_log2(lse)).exp2()
        p_operand = block.dropout(p).to(problem.dtype)
        dp = block.dropout(block.matmul(do, v.T, name="dP"))
        ds = (p * (dp - delta)).to(problem.dtype)
        acc_dv = block.matmul(p_operand.T, do, acc=acc_dv, name="dV")
        block.reduce("dQ_accum", block.matmul(ds, k, name="dQ"), m_rows)
        acc_dk = block.matmul(ds.T, q, acc=acc_dk, name="dK")
    return acc_dk, acc_dv


def kernels(
    problem: Attention, tiling: Tiling, mapping: Mapping, head_dim: int = 0
) -> tuple[Kernel, ...]:
    """The chain: delta and zeros, gradients, [sums over a group], rounding of dQ.

    Args:
        tiling: `descending` is the direction of the loop over Q.
        head_dim: of the compiled kernel, if it pads the problem's.
    """
    dtype, lengths = problem.dtype, axes_of(problem)
    o, do = Tensor("O", QUERY, dtype), Tensor("dO", QUERY, dtype)
    delta, dq_accum = Tensor("delta", ROWS, "fp32"), Tensor("dQ_accum", QUERY, "fp32")
    by_rows = {"q": tiling.tile_m}
    main = Kernel(
        name="flash2_backward",
        program=flash2_backward,
        problem=problem,
        grid=("k", "batch", "head"),
        lengths=lengths,
        tiles={"q": tiling.tile_m, "k": tiling.tile_n, "d": max(head_dim, problem.head_dim)},
        tensors=(
            Tensor("Q", QUERY, dtype),
            Tensor("K", KEY, dtype),
            Tensor("V", KEY, dtype),
            do,
            Tensor("LSE", ROWS, "fp32"),
            delta,
            dq_accum,
            *key_gradients(problem),
        ),
        mapping=mapping,
        descending=frozenset({"q"}) if tiling.descending else frozenset(),
    )
    grid = ("q", "batch", "head")
    before = Kernel(
        "preprocess",
        preprocess,
        problem,
        grid,
        lengths,
        by_rows,
        (o, do, delta, dq_accum),
        STREAMING,
    )
    after = convert_kernel(problem, "dQ", tiling.tile_m, grid, problem.scale)
    return (before, main, *group_sums(problem), after)
