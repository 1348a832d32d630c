"""The two-pass backward of Triton's fused-attention tutorial: dK and dV in one kernel, dQ in
another.

Each recomputes S and dP: seven products where FlashAttention-2 has five, and nothing is added
atomically. The tutorial runs both passes in one launch, a block taking one tile of each.
"""

from __future__ import annotations

from fasim.problem import Attention
from fasim.schedules.chain import KEY, QUERY, ROWS, axes_of
from fasim.schedules.gradients import delta_kernel, group_sums, key_gradients
from fasim.schedules.language import LOG2_E, Block, Kernel, Tensor, Tile
from fasim.schedules.mapping import Mapping
from fasim.schedules.tiling import Tiling

PREPROCESS_ROWS = 128


def _probabilities(block: Block, problem: Attention, q: Tile, k: Tile, lse: Tile) -> Tile:
    """P of a tile."""
    s = block.mask(block.matmul(q, k.T, name="S"))
    return (s * (problem.scale * LOG2_E) - lse.finite() * LOG2_E).exp2()


def _gradient_of_scores(
    block: Block, problem: Attention, p: Tile, v: Tile, do: Tile, delta: Tile
) -> Tile:
    """dS of a tile, as an operand."""
    dp = block.dropout(block.matmul(do, v.T, name="dP"))
    return (p * (dp - delta)).to(problem.dtype)


def key_value_pass(block: Block, problem: Attention) -> None:
    """read Q, K, V, dO, LSE, delta; write dK, dV."""
    dk, dv = key_gradients(problem)
    n_rows, d = block.rows("k"), block.all("d")
    k, v = block.load("K", n_rows), block.load("V", n_rows)
    acc_dk, acc_dv = block.full(0.0, n_rows, d), block.full(0.0, n_rows, d)
    for m_rows in block.loop("q", seen_from=n_rows):
        q, do = block.load("Q", m_rows), block.load("dO", m_rows)
        lse, delta = block.load("LSE", m_rows), block.load("delta", m_rows)
        p = _probabilities(block, problem, q, k, lse)
        dropped = block.dropout(p).to(problem.dtype)
        acc_dv = block.matmul(dropped.T, do, acc=acc_dv, name="dV")
        ds = _gradient_of_scores(block, problem, p, v, do, delta)
        acc_dk = block.matmul(ds.T, q, acc=acc_dk, name="dK")
    block.store(dk.name, (acc_dk * problem.scale).to(problem.dtype), n_rows)
    block.store(dv.name, acc_dv.to(problem.dtype), n_rows)


def query_pass(block: Block, problem: Attention) -> None:
    """read Q, K, V, dO, LSE, delta; write dQ."""
    m_rows = block.rows("q")
    q, do = block.load("Q", m_rows), block.load("dO", m_rows)
    lse, delta = block.load("LSE", m_rows), block.load("delta", m_rows)
    acc_dq = block.full(0.0, m_rows, block.all("d"))
    for n_rows in block.loop("k", seen_from=m_rows):
        k, v = block.load("K", n_rows), block.load("V", n_rows)
        p = _probabilities(block, problem, q, k, lse)
        ds = _gradient_of_scores(block, problem, p, v, do, delta)
        acc_dq = block.matmul(ds, k, acc=acc_dq, name="dQ")
    block.store("dQ", (acc_dq * problem.scale).to(problem.dtype), m_rows)


def kernels(
    problem: Attention, keys: Tiling, key_mapping: Mapping, queries: Tiling, query_mapping: Mapping
) -> tuple[Kernel, ...]:
    """The chain: delta, dK and dV, [sums over a group], dQ.

    Args:
        keys, key_mapping: of the pass whose blocks own rows of K/V.
        queries, query_mapping: of the pass whose blocks own rows of Q.
    """
    dtype, lengths = problem.dtype, axes_of(problem)
    read = (
        Tensor("Q", QUERY, dtype),
        Tensor("K", KEY, dtype),
        Tensor("V", KEY, dtype),
        Tensor("dO", QUERY, dtype),
        Tensor("LSE", ROWS, "fp32"),
        Tensor("delta", ROWS, "fp32"),
    )
    key_value = Kernel(
        name="key_value_pass",
        program=key_value_pass,
        problem=problem,
        grid=("k", "head", "batch"),
        lengths=lengths,
        tiles={"q": keys.tile_m, "k": keys.tile_n},
        tensors=(*read, *key_gradients(problem)),
        mapping=key_mapping,
    )
    query = Kernel(
        name="query_pass",
        program=query_pass,
        problem=problem,
        grid=("q", "head", "batch"),
        lengths=lengths,
        tiles={"q": queries.tile_m, "k": queries.tile_n},
        tensors=(*read, Tensor("dQ", QUERY, dtype)),
        mapping=query_mapping,
    )
    return (delta_kernel(problem, PREPROCESS_ROWS), key_value, *group_sums(problem), query)
