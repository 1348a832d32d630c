"""Gradients added to those that earlier calls have left, as PyTorch does where none reset them.

`AccumulateGrad` takes a first gradient as it is, and adds a later one in place, by a kernel for
each tensor (torch/csrc/autograd/functions/accumulate_grad.h).
"""

from __future__ import annotations

from fasim.problem import Attention
from fasim.schedules.chain import KEY, QUERY, axes_of
from fasim.schedules.implementations.pytorch_elementwise import (
    ELEMENTWISE,
    rows_of_block,
    streaming,
)
from fasim.schedules.language import Block, Kernel, Tensor

GRADIENTS = {"dQ": QUERY, "dK": KEY, "dV": KEY}


def kernels(problem: Attention) -> tuple[Kernel, ...]:
    """Three kernels behind backward's: dQ, dK, dV are added to what Q, K and V have gathered."""
    return tuple(_accumulate(problem, name) for name in GRADIENTS)


def _accumulate(problem: Attention, name: str) -> Kernel:
    axes, lengths = GRADIENTS[name], axes_of(problem)
    total, rows_axis = f"{name[1:]}_grad", axes[2]

    def accumulate(block: Block, _: Attention) -> None:
        rows = block.rows(rows_axis)
        added = block.load(total, rows).to("fp32") + block.load(name, rows).to("fp32")
        block.store(total, added.to(problem.dtype), rows)

    return Kernel(
        name=f"accumulate_{name}",
        program=accumulate,
        problem=problem,
        grid=(rows_axis, axes[1], "batch"),
        lengths=lengths,
        tiles={rows_axis: rows_of_block(lengths[rows_axis], problem.head_dim)},
        tensors=(Tensor(name, axes, problem.dtype), Tensor(total, axes, problem.dtype)),
        mapping=streaming(ELEMENTWISE, warps=4),
    )
