"""Elementwise operators and copies: every element read once, every result written once."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt

from fasim.problem import Attention
from fasim.schedules.chain import SCORES, axes_of
from fasim.schedules.language import LOG2_E, Block, Kernel, Rows, Tensor, Tile
from fasim.schedules.mapping import Mapping

# The scalar of `scale` and of `triad`: any but 1.
FACTOR = 0.5
INPUTS = ("X", "Y", "Z")


def _sigmoid(x: Tile) -> Tile:
    return ((x * -LOG2_E).exp2() + 1.0).inverse()


def _gelu(x: Tile) -> Tile:
    """The tanh form; tanh(u) = 2σ(2u) − 1."""
    inner = (x * x * 0.044715 + 1.0) * x
    return x * _sigmoid(inner * (2 * sqrt(2 / pi)))


# How many tensors each reads, and what it makes of them.
FUNCTIONS: dict[str, tuple[int, Callable[..., Tile]]] = {
    "gelu": (1, _gelu),
    "relu": (1, lambda x: x.apply("maximum", 0.0)),
    "silu": (1, lambda x: x * _sigmoid(x)),
    "scale": (1, lambda x: x * FACTOR),
    "add": (2, lambda x, y: x + y),
    "mul": (2, lambda x, y: x * y),
    "triad": (2, lambda x, y: x + y * FACTOR),
}


def _elements(block: Block) -> tuple[Rows, Rows]:
    """The one row, and the block's own columns of it."""
    return block.all("q"), block.rows("k")


def _function(operation: str) -> Callable[[Block, Attention], None]:
    count, function = FUNCTIONS[operation]

    def pointwise(block: Block, problem: Attention) -> None:
        where = _elements(block)
        tiles = [block.load(name, *where).to("fp32") for name in INPUTS[:count]]
        block.store("out", function(*tiles).to(problem.dtype), *where)

    return pointwise


def _fill(block: Block, problem: Attention) -> None:
    where = _elements(block)
    block.store("out", block.full(FACTOR, *where).to(problem.dtype), *where)


def _dropout(block: Block, problem: Attention) -> None:
    where = _elements(block)
    x = block.load("X", *where).to("fp32")
    factor = block.dropout(block.full(1.0, *where))
    block.store("out", (x * factor).to(problem.dtype), *where)
    block.store("mask", factor.to("bool"), *where)


def _copy(block: Block, _: Attention) -> None:
    where = _elements(block)
    block.store("out", block.load("X", *where), *where)


def kernel(problem: Attention, operation: str, mapping: Mapping, elements: int) -> Kernel:
    """read X, … ; write out (and, for dropout, mask).

    Args:
        problem: one query, as many keys as there are elements.
        operation: of `elementwise`, or `copy`.
        elements: that a block takes.
    """
    own: dict[str, tuple[int, Callable[[Block, Attention], None]]] = {
        "fill": (0, _fill),
        "copy": (1, _copy),
        "dropout": (1, _dropout),
    }
    if operation in own:
        count, program = own[operation]
    else:
        count, program = FUNCTIONS[operation][0], _function(operation)
    mask = (Tensor("mask", SCORES, "bool"),) if operation == "dropout" else ()
    names = (*INPUTS[:count], "out")
    return Kernel(
        name=operation,
        program=program,
        problem=problem,
        grid=("k", "head", "batch"),
        lengths=axes_of(problem),
        tiles={"k": elements},
        tensors=(*(Tensor(name, SCORES, problem.dtype) for name in names), *mask),
        mapping=mapping,
    )
