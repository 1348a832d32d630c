"""Backward as CUTLASS's fused kernel has it: key tiles in parallel, every product streamed.

FlashAttention-2's products in its loop order, but no tile is kept for the product that needs it
next: Q and dO come twice a step, V once, K once or twice. Each block works out delta of all rows
for itself before its loop, those under a causal mask that it never sees included; blocks of one
head all write the same values. dQ is added up in FP32 in global memory.
"""

from __future__ import annotations

from collections.abc import Callable

from fasim.problem import Attention
from fasim.schedules.chain import KEY, QUERY, ROWS, axes_of
from fasim.schedules.gradients import STREAMING, group_sums, key_gradients
from fasim.schedules.language import LOG2_E, Block, Kernel, Rows, Tensor, Tile
from fasim.schedules.mapping import Mapping
from fasim.schedules.tiling import Tiling


def zero_dq(block: Block, _: Attention) -> None:
    """write zeros where dQ will be added up."""
    m_rows = block.rows("q")
    block.store("dQ_accum", block.full(0.0, m_rows, block.all("d")), m_rows)


def keys_stay(block: Block, problem: Attention) -> None:
    """read Q, K, V, O, dO, LSE; write delta and read it; add to dQ_accum; write dK, dV."""
    n_rows = block.rows("k")
    _delta(block)
    k = block.load("K", n_rows)
    _gradients(block, problem, n_rows, lambda: k)


def keys_stream(block: Block, problem: Attention) -> None:
    """As `keys_stay`, but K comes for S of every step, too."""
    n_rows = block.rows("k")
    _delta(block)
    _gradients(block, problem, n_rows, lambda: block.load("K", n_rows))


def _delta(block: Block) -> None:
    for m_rows in block.loop("q"):
        o, do = block.load("O", m_rows), block.load("dO", m_rows)
        block.store("delta", (o.to("fp32") * do.to("fp32")).row_sum(), m_rows)


def _gradients(
    block: Block, problem: Attention, n_rows: Rows, keys_of_scores: Callable[[], Tile]
) -> None:
    dk, dv = key_gradients(problem)
    d = block.all("d")
    acc_dk, acc_dv = block.full(0.0, n_rows, d), block.full(0.0, n_rows, d)
    for m_rows in block.loop("q", seen_from=n_rows):
        delta = block.load("delta", m_rows)
        s = block.matmul(block.load("Q", m_rows), keys_of_scores().T, name="S")
        s = block.mask(s * problem.scale)
        lse = block.load("LSE", m_rows)
        p = ((s - lse.finite()) * LOG2_E).exp2()
        p_operand = block.dropout(p).to(problem.dtype)
        acc_dv = block.matmul(p_operand.T, block.load("dO", m_rows), acc=acc_dv, name="dV")
        dp = block.matmul(block.load("dO", m_rows), block.load("V", n_rows).T, name="dP")
        ds = (p * (block.dropout(dp) - delta) * problem.scale).to(problem.dtype)
        dq = block.matmul(ds, block.load("K", n_rows), name="dQ")
        block.reduce("dQ_accum", dq, m_rows)
        acc_dk = block.matmul(ds.T, block.load("Q", m_rows), acc=acc_dk, name="dK")
    block.store(dk.name, acc_dk.to(problem.dtype), n_rows)
    block.store(dv.name, acc_dv.to(problem.dtype), n_rows)


def convert_dq(block: Block, problem: Attention) -> None:
    """read dQ_accum; write dQ, rounded."""
    m_rows = block.rows("q")
    block.store("dQ", block.load("dQ_accum", m_rows).to(problem.dtype), m_rows)


def kernels(
    problem: Attention, tiling: Tiling, mapping: Mapping, *, keys_resident: bool
) -> tuple[Kernel, ...]:
    """The chain: zeros, gradients, [sums over a group], rounding of dQ.

    Args:
        keys_resident: K of S stays in shared memory; it streams for dQ in either case.
    """
    dtype, lengths = problem.dtype, axes_of(problem)
    dq_accum, dq = Tensor("dQ_accum", QUERY, "fp32"), Tensor("dQ", QUERY, dtype)
    by_rows, grid = {"q": tiling.tile_m}, ("q", "batch", "head")
    before = Kernel("zero_dq", zero_dq, problem, grid, lengths, by_rows, (dq_accum,), STREAMING)
    main = Kernel(
        name="streamed_backward",
        program=keys_stay if keys_resident else keys_stream,
        problem=problem,
        grid=("k", "head", "batch"),
        lengths=lengths,
        tiles={"q": tiling.tile_m, "k": tiling.tile_n},
        tensors=(
            Tensor("Q", QUERY, dtype),
            Tensor("K", KEY, dtype),
            Tensor("V", KEY, dtype),
            Tensor("O", QUERY, dtype),
            Tensor("dO", QUERY, dtype),
            Tensor("LSE", ROWS, "fp32"),
            Tensor("delta", ROWS, "fp32", repeated=True),
            dq_accum,
            *key_gradients(problem),
        ),
        mapping=mapping,
    )
    after = Kernel(
        "convert_dq", convert_dq, problem, grid, lengths, by_rows, (dq_accum, dq), STREAMING
    )
    return (before, main, *group_sums(problem), after)
