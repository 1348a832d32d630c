"""Eager PyTorch, backward: what autograd runs for the chain of `pytorch.py`.

Softmax backward is two kernels, grad·output and the rest: 20 bytes a score of two bytes. The mask
is added, so its backward is nothing.
"""

from __future__ import annotations

from fasim.problem import Attention
from fasim.schedules.chain import SCORES, axes_of
from fasim.schedules.language import Block, Kernel, Tensor
from fasim.schedules.mapping import Mapping


def _product(block: Block, problem: Attention) -> None:
    m_rows = block.rows("q")
    p, dp = block.load("P", m_rows), block.load("dP", m_rows)
    block.store("P_dP", (p.to("fp32") * dp.to("fp32")).to(problem.dtype), m_rows)


def _softmax_gradient(block: Block, problem: Attention) -> None:
    m_rows = block.rows("q")
    product, p = block.load("P_dP", m_rows).to("fp32"), block.load("P", m_rows).to("fp32")
    ds = product - p * product.row_sum()
    block.store("dS", ds.to(problem.dtype), m_rows)


def product_kernel(problem: Attention, mapping: Mapping) -> Kernel:
    """read P, dP; write their product."""
    return Kernel(
        name="grad_output",
        program=_product,
        problem=problem,
        grid=("q", "head", "batch"),
        lengths=axes_of(problem),
        tiles={"q": 1},
        tensors=tuple(Tensor(name, SCORES, problem.dtype) for name in ("P", "dP", "P_dP")),
        mapping=mapping,
    )


def softmax_gradient_kernel(problem: Attention, mapping: Mapping, rows_per_block: int) -> Kernel:
    """read P ∘ dP, P; write dS = P ∘ dP − P·rowsum(P ∘ dP)."""
    return Kernel(
        name="softmax_gradient",
        program=_softmax_gradient,
        problem=problem,
        grid=("q", "head", "batch"),
        lengths=axes_of(problem),
        tiles={"q": rows_per_block},
        tensors=tuple(Tensor(name, SCORES, problem.dtype) for name in ("P_dP", "P", "dS")),
        mapping=mapping,
    )
