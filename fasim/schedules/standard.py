"""Standard attention: three kernels, with S and P in global memory.

Eight matrix accesses: read Q, K, write S; read S, write P; read P, V, write O. The mask is
applied inside the softmax, so a causal problem still moves and multiplies all of N².

The kernels take the names of their tensors, so that a real chain can put others between.
"""

from __future__ import annotations

from dataclasses import dataclass

from fasim.problem import Attention
from fasim.schedules.chain import KEY, QUERY, SCORES, axes_of
from fasim.schedules.dropout import after_dropout, dropout_kernels
from fasim.schedules.language import LOG2_E, Block, Kernel, Tensor
from fasim.schedules.mapping import Mapping


@dataclass(frozen=True, slots=True)
class Gemm:
    """How the two matrix products are tiled.

    Attributes:
        tile_m, tile_n: rows and columns of the result a block computes.
        k_step: elements of the contracted side a main-loop step takes.
        stages: shared-memory buffers of each operand.
    """

    tile_m: int
    tile_n: int
    k_step: int
    stages: int
    mapping: Mapping

    def head_tile(self, problem: Attention) -> int:
        """Columns of a result as wide as the head: its own width, padded, if that is less."""
        return min(self.tile_n, -(-problem.head_dim // 32) * 32)

    def mapped(self, left: str, right: str) -> Mapping:
        """The mapping with this many stages of its two operands."""
        return self.mapping.with_buffers(((left, self.stages), (right, self.stages)))


def query_key_kernel(
    problem: Attention,
    gemm: Gemm,
    q: str = "Q",
    k: str = "K",
    s: str = "S",
    scale: float | None = None,
    name: str = "query_key",
) -> Kernel:
    """S = QKᵀ·scale, or the same product of other tensors; scaled in the epilogue.

    Args:
        scale: the problem's unless given.
    """
    factor = problem.scale if scale is None else scale

    def query_key(block: Block, problem: Attention) -> None:
        m_rows, n_rows = block.rows("q"), block.rows("k")
        acc_s = block.full(0.0, m_rows, n_rows)
        for d_rows in block.loop("d"):
            q_tile, k_tile = block.load(q, m_rows, d_rows), block.load(k, n_rows, d_rows)
            acc_s = block.matmul(q_tile, k_tile.T, acc=acc_s, name=s)
        acc_s = acc_s if factor == 1 else acc_s * factor
        block.store(s, acc_s.to(problem.dtype), m_rows, n_rows)

    return Kernel(
        name=name,
        program=query_key,
        problem=problem,
        grid=("q", "k", "head", "batch"),
        lengths=axes_of(problem),
        tiles={"q": gemm.tile_m, "k": gemm.tile_n, "d": gemm.k_step},
        tensors=(
            Tensor(q, QUERY, problem.dtype),
            Tensor(k, KEY, problem.dtype),
            Tensor(s, SCORES, problem.dtype),
        ),
        mapping=gemm.mapped(q, k),
    )


def softmax_kernel(
    problem: Attention,
    mapping: Mapping,
    rows_per_block: int,
    s: str = "S",
    masks: bool = True,
    p: str = "P",
) -> Kernel:
    """P = softmax(S) over whole rows; a row that sees nothing gives zeros."""

    def softmax(block: Block, problem: Attention) -> None:
        m_rows = block.rows("q")
        scores = block.load(s, m_rows).to("fp32")
        scores = block.mask(scores) if masks else scores
        row_max = scores.row_max().finite() * LOG2_E
        weights = (scores * LOG2_E - row_max).exp2()
        block.store(p, (weights * weights.row_sum().inverse()).to(problem.dtype), m_rows)

    return Kernel(
        name="softmax",
        program=softmax,
        problem=problem,
        grid=("q", "head", "batch"),
        lengths=axes_of(problem),
        tiles={"q": rows_per_block},
        tensors=(Tensor(s, SCORES, problem.dtype), Tensor(p, SCORES, problem.dtype)),
        mapping=mapping,
    )


def probability_value_kernel(
    problem: Attention,
    gemm: Gemm,
    v: str = "V",
    o: str = "O",
    p: str = "P",
    scale: float = 1.0,
    name: str = "probability_value",
) -> Kernel:
    """O = PV, or the same product of other tensors; a narrow head takes a tile of its own width."""

    def probability_value(block: Block, problem: Attention) -> None:
        m_rows, d_rows = block.rows("q"), block.rows("d")
        acc_o = block.full(0.0, m_rows, d_rows)
        for n_rows in block.loop("k"):
            p_tile, v_tile = block.load(p, m_rows, n_rows), block.load(v, n_rows, d_rows)
            acc_o = block.matmul(p_tile, v_tile, acc=acc_o, name=o)
        acc_o = acc_o if scale == 1 else acc_o * scale
        block.store(o, acc_o.to(problem.dtype), m_rows, d_rows)

    return Kernel(
        name=name,
        program=probability_value,
        problem=problem,
        grid=("q", "d", "head", "batch"),
        lengths=axes_of(problem),
        tiles={"q": gemm.tile_m, "k": gemm.k_step, "d": gemm.head_tile(problem)},
        tensors=(
            Tensor(p, SCORES, problem.dtype),
            Tensor(v, KEY, problem.dtype),
            Tensor(o, QUERY, problem.dtype),
        ),
        mapping=gemm.mapped(p, v),
    )


def kernels(
    problem: Attention, gemm: Gemm, rows: Mapping, rows_per_block: int
) -> tuple[Kernel, ...]:
    """The textbook chain: QKᵀ, softmax, [dropout], PV."""
    return (
        query_key_kernel(problem, gemm),
        softmax_kernel(problem, rows, rows_per_block),
        *dropout_kernels(problem, rows, rows_per_block),
        probability_value_kernel(problem, gemm, p=after_dropout(problem, "P")),
    )
