"""Dropout as a kernel of its own, between softmax and PV, with its mask in global memory.

Forward reads 2 and writes 2 + 1 bytes a score of two bytes, backward reads 2 + 1 and writes 2.
Fused kernels need none of it: they draw the same numbers again.
"""

from __future__ import annotations

from fasim.problem import Attention
from fasim.schedules.chain import SCORES, axes_of
from fasim.schedules.language import Block, Kernel, Tensor
from fasim.schedules.mapping import Mapping

MASK = Tensor("dropout_mask", SCORES, "bool")


def after_dropout(problem: Attention, tensor: str) -> str:
    """The name that P, or its gradient, has on the far side of dropout."""
    return f"{tensor}_dropped" if problem.dropout else tensor


def _dropout(block: Block, problem: Attention) -> None:
    m_rows = block.rows("q")
    p = block.load("P", m_rows).to("fp32")
    factor = block.dropout(block.full(1.0, m_rows, block.all("k")))
    block.store("P_dropped", (p * factor).to(problem.dtype), m_rows)
    block.store("dropout_mask", factor.to("bool"), m_rows)


def dropout_kernels(
    problem: Attention, mapping: Mapping, rows_per_block: int = 1
) -> tuple[Kernel, ...]:
    """read P; write P_dropped, dropout_mask. No kernel in a problem without dropout."""
    if problem.dropout == 0:
        return ()
    scores = tuple(Tensor(name, SCORES, problem.dtype) for name in ("P", "P_dropped"))
    return (
        Kernel(
            name="dropout",
            program=_dropout,
            problem=problem,
            grid=("q", "head", "batch"),
            lengths=axes_of(problem),
            tiles={"q": rows_per_block},
            tensors=(*scores, MASK),
            mapping=mapping,
        ),
    )


def _dropout_gradient(block: Block, problem: Attention) -> None:
    m_rows = block.rows("q")
    dp = block.load("dP_dropped", m_rows).to("fp32")
    kept = block.load("dropout_mask", m_rows).to("fp32")
    block.store("dP", (dp * kept * (1 / (1 - problem.dropout))).to(problem.dtype), m_rows)


def dropout_gradient_kernels(
    problem: Attention, mapping: Mapping, rows_per_block: int = 1
) -> tuple[Kernel, ...]:
    """read dP_dropped, dropout_mask; write dP. No kernel in a problem without dropout."""
    if problem.dropout == 0:
        return ()
    scores = tuple(Tensor(name, SCORES, problem.dtype) for name in ("dP_dropped", "dP"))
    return (
        Kernel(
            name="dropout_gradient",
            program=_dropout_gradient,
            problem=problem,
            grid=("q", "head", "batch"),
            lengths=axes_of(problem),
            tiles={"q": rows_per_block},
            tensors=(*scores, MASK),
            mapping=mapping,
        ),
    )
