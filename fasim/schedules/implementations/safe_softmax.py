"""PyTorch's `_safe_softmax`: softmax, and three kernels more for rows that see nothing.

Which scores are −∞ is written down, a byte a score; rows of nothing else are looked for, and P is
written again, with zeros there: 14 bytes a score of four bytes, whether there is a mask or not.
"""

from __future__ import annotations

from collections.abc import Callable

from fasim.problem import Attention
from fasim.schedules.chain import ROWS, SCORES, axes_of
from fasim.schedules.implementations import pytorch
from fasim.schedules.implementations.pytorch_elementwise import ELEMENTWISE, streaming
from fasim.schedules.language import Block, Kernel, Tensor
from fasim.schedules.standard import softmax_kernel

# The framework writes what is hidden; its complement has as many bytes.
VISIBLE, SEEING = Tensor("visible", SCORES, "bool"), Tensor("seeing", ROWS, "bool")


def _compare_program(s: str) -> Callable[[Block, Attention], None]:
    def compare(block: Block, _: Attention) -> None:
        m_rows = block.rows("q")
        scores = block.load(s, m_rows).to("fp32")
        # 0 where finite, else −∞: 1 and 0 once raised.
        block.store("visible", (scores - scores.finite()).exp2().to("bool"), m_rows)

    return compare


def _find_rows(block: Block, _: Attention) -> None:
    m_rows = block.rows("q")
    block.store("seeing", block.load("visible", m_rows).to("fp32").row_max().to("bool"), m_rows)


def _select(block: Block, problem: Attention) -> None:
    m_rows = block.rows("q")
    p, seeing = block.load("P_unsafe", m_rows).to("fp32"), block.load("seeing", m_rows)
    block.store("P", (p * seeing.to("fp32")).to(problem.dtype), m_rows)


def kernels(problem: Attention, s: str) -> tuple[Kernel, ...]:
    """The chain: softmax, isneginf, all, where.

    Args:
        s: the scores; −∞ where a mask hides them.
    """
    scores, unsafe, p = (Tensor(name, SCORES, problem.dtype) for name in (s, "P_unsafe", "P"))

    def pass_over(
        name: str, program: Callable[[Block, Attention], None], tensors: tuple[Tensor, ...]
    ) -> Kernel:
        return Kernel(
            name=name,
            program=program,
            problem=problem,
            grid=("q", "head", "batch"),
            lengths=axes_of(problem),
            tiles={"q": 1},
            tensors=tensors,
            mapping=streaming(ELEMENTWISE, warps=4),
        )

    mapping, rows_per_block = pytorch.softmax_mapping(problem)
    return (
        softmax_kernel(problem, mapping, rows_per_block, s, masks=False, p="P_unsafe"),
        pass_over("softmax_hidden", _compare_program(s), (scores, VISIBLE)),
        pass_over("softmax_hidden_rows", _find_rows, (VISIBLE, SEEING)),
        pass_over("softmax_where", _select, (unsafe, SEEING, p)),
    )
