"""Softmax of whole rows, as its three textbooks have it: P = softmax(S), rows × columns.

Rows are batch × heads × seqlen_q, columns seqlen_k. A block owns some rows and passes over their
columns tile by tile; what it does not keep it loads again. FP32 inside.
"""

from __future__ import annotations

from collections.abc import Callable

from fasim.problem import Attention
from fasim.schedules.chain import SCORES, axes_of
from fasim.schedules.language import LOG2_E, Block, Kernel, Rows, Tensor, Tile
from fasim.schedules.mapping import Mapping
from fasim.schedules.online_softmax import OnlineSoftmax


def naive(block: Block, problem: Attention) -> None:
    """load S, add up exp(S); load S again, store exp(S) / sum. Large scores overflow."""
    m_rows = block.rows("q")
    row_sum = block.full(0.0, m_rows)
    for n_rows in block.loop("k"):
        row_sum = row_sum + (_scores(block, m_rows, n_rows) * LOG2_E).exp2().row_sum()
    inverse = row_sum.inverse()
    for n_rows in block.loop("k"):
        p = (_scores(block, m_rows, n_rows) * LOG2_E).exp2() * inverse
        block.store("P", p.to(problem.dtype), m_rows, n_rows)


def safe(block: Block, problem: Attention) -> None:
    """load S for its maximum, again for the sum below it, a third time for the result."""
    m_rows = block.rows("q")
    row_max = block.full(float("-inf"), m_rows)
    for n_rows in block.loop("k"):
        row_max = row_max.maximum(_scores(block, m_rows, n_rows).row_max())
    shift = row_max.finite() * LOG2_E
    row_sum = block.full(0.0, m_rows)
    for n_rows in block.loop("k"):
        s = _scores(block, m_rows, n_rows)
        row_sum = row_sum + (s * LOG2_E - shift).exp2().row_sum()
    _normalise(block, problem, m_rows, shift, row_sum.inverse())


def online(block: Block, problem: Attention) -> None:
    """load S for maximum and sum at once, correcting the sum; load S again for the result."""
    m_rows = block.rows("q")
    state = OnlineSoftmax(block, m_rows, scale=1.0)
    for n_rows in block.loop("k"):
        state.update(_scores(block, m_rows, n_rows))
    _normalise(block, problem, m_rows, state.row_max.finite() * LOG2_E, state.inverse())


def _scores(block: Block, m_rows: Rows, n_rows: Rows) -> Tile:
    return block.load("S", m_rows, n_rows).to("fp32")


def _normalise(block: Block, problem: Attention, m_rows: Rows, shift: Tile, inverse: Tile) -> None:
    """load S; store exp(S − max) / sum."""
    for n_rows in block.loop("k"):
        p = (_scores(block, m_rows, n_rows) * LOG2_E - shift).exp2() * inverse
        block.store("P", p.to(problem.dtype), m_rows, n_rows)


PROGRAMS: dict[str, Callable[[Block, Attention], None]] = {
    "softmax-naive": naive,
    "softmax-safe": safe,
    "softmax-online": online,
}


def kernels(
    name: str, problem: Attention, mapping: Mapping, rows: int, columns: int
) -> tuple[Kernel, ...]:
    """The one kernel of `softmax-naive`, `-safe` or `-online`.

    Args:
        rows: that a block owns.
        columns: that it takes at a time.
    """
    return (
        Kernel(
            name=name.replace("-", "_"),
            program=PROGRAMS[name],
            problem=problem,
            grid=("q", "head", "batch"),
            lengths=axes_of(problem),
            tiles={"q": rows, "k": columns},
            tensors=(Tensor("S", SCORES, problem.dtype), Tensor("P", SCORES, problem.dtype)),
            mapping=mapping,
        ),
    )
