"""C = A·Bᵀ: one kernel, or partial sums of parts of the contracted side and a kernel to add them.

One kernel is attention's QKᵀ under other names. Splitting the contracted side (split-K) gives a
small result enough blocks to fill the GPU; the parts pass through memory in FP32.
"""

from __future__ import annotations

from fasim.problem import Attention
from fasim.schedules.chain import KEY, QUERY, SCORES, axes_of
from fasim.schedules.language import Block, Kernel, Tensor
from fasim.schedules.mapping import Mapping
from fasim.schedules.standard import Gemm, query_key_kernel

PARTIALS = ("split", *SCORES)


def _part(block: Block, _: Attention) -> None:
    m_rows, n_rows, part = block.rows("q"), block.rows("k"), block.rows("split")
    acc = block.full(0.0, m_rows, n_rows)
    for k_rows in block.loop("d", within=part):
        a, b = block.load("A", m_rows, k_rows), block.load("B", n_rows, k_rows)
        acc = block.matmul(a, b.T, acc=acc, name="C")
    block.store("C_partial", acc, part, m_rows, n_rows)


def _add_parts(block: Block, problem: Attention) -> None:
    m_rows, n_rows = block.rows("q"), block.rows("k")
    acc = block.full(0.0, m_rows, n_rows)
    for part in block.loop("split"):
        acc = acc + block.load("C_partial", part, m_rows, n_rows)
    block.store("C", acc.to(problem.dtype), m_rows, n_rows)


def kernels(
    problem: Attention, gemm: Gemm, splits: int, adding: Mapping, elements: int
) -> tuple[Kernel, ...]:
    """The product whole, or in parts and their sum.

    Args:
        problem: queries are rows of A, keys rows of B, the head is the contracted side.
        adding: how the second kernel runs.
        elements: of a row that a block of it takes.
    """
    if splits == 1:
        return (query_key_kernel(problem, gemm, "A", "B", "C", 1.0, "gemm"),)
    lengths = {**axes_of(problem), "split": splits}
    partial = Tensor("C_partial", PARTIALS, "fp32")
    return (
        Kernel(
            name="gemm_split_k",
            program=_part,
            problem=problem,
            grid=("q", "k", "split", "head", "batch"),
            lengths=lengths,
            tiles={"q": gemm.tile_m, "k": gemm.tile_n, "d": gemm.k_step},
            tensors=(
                Tensor("A", QUERY, problem.dtype),
                Tensor("B", KEY, problem.dtype),
                partial,
            ),
            mapping=gemm.mapped("A", "B"),
        ),
        Kernel(
            name="split_k_sum",
            program=_add_parts,
            problem=problem,
            grid=("k", "q", "head", "batch"),
            lengths=lengths,
            tiles={"q": 1, "k": elements},
            tensors=(partial, Tensor("C", SCORES, problem.dtype)),
            mapping=adding,
        ),
    )
