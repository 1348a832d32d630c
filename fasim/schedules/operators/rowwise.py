"""Reductions of rows and their normalisation; softmax is `schedules/standard.py`'s."""

from __future__ import annotations

from collections.abc import Callable

from fasim.problem import Attention
from fasim.schedules.chain import ROWS, SCORES, axes_of
from fasim.schedules.language import Block, Kernel, Tensor, Tile
from fasim.schedules.mapping import Mapping

EPSILON = 1e-5  # added to the variance, as torch.nn.LayerNorm does
WEIGHTS = ("one", "k")  # a value a column, the same for every row


def _reduced(tile: Tile, operation: str) -> Tile:
    return tile.reduce_rows("max" if operation == "max" else "sum")


def _reduce_whole(operation: str) -> Callable[[Block, Attention], None]:
    def reduce(block: Block, problem: Attention) -> None:
        m_rows = block.rows("q")
        x = block.load("X", m_rows).to("fp32")
        block.store("out", _reduced(x, operation).to(problem.dtype), m_rows)

    return reduce


def _reduce_in_tiles(operation: str) -> Callable[[Block, Attention], None]:
    def reduce(block: Block, problem: Attention) -> None:
        m_rows = block.rows("q")
        acc = block.full(float("-inf") if operation == "max" else 0.0, m_rows)
        for n_rows in block.loop("k"):
            part = _reduced(block.load("X", m_rows, n_rows).to("fp32"), operation)
            acc = acc.maximum(part) if operation == "max" else acc + part
        block.store("out", acc.to(problem.dtype), m_rows)

    return reduce


def reduce_kernel(
    problem: Attention, operation: str, mapping: Mapping, rows: int, columns: int
) -> Kernel:
    """read X; write out, one value a row.

    Args:
        operation: `sum` or `max`.
        rows: that a block owns.
        columns: that it takes at a time: all of a row that is no longer.
    """
    whole = problem.seqlen_k <= columns
    return Kernel(
        name=operation,
        program=(_reduce_whole if whole else _reduce_in_tiles)(operation),
        problem=problem,
        grid=("q", "head", "batch"),
        lengths=axes_of(problem),
        tiles={"q": rows} if whole else {"q": rows, "k": columns},
        tensors=(Tensor("X", SCORES, problem.dtype), Tensor("out", ROWS, problem.dtype)),
        mapping=mapping,
    )


def _inverse_root(variance: Tile) -> Tile:
    """1/√(variance + ε); the tile language has no square root."""
    return ((variance + EPSILON).log2() * -0.5).exp2()


def _layer_norm(block: Block, problem: Attention) -> None:
    m_rows, one = block.rows("q"), block.all("one")
    share = 1 / problem.seqlen_k
    x = block.load("X", m_rows).to("fp32")
    mean = x.row_sum() * share
    centred = x - mean
    rstd = _inverse_root((centred * centred).row_sum() * share)
    weight, bias = (block.load(name, one).to("fp32") for name in ("weight", "bias"))
    block.store("out", (centred * rstd * weight + bias).to(problem.dtype), m_rows)
    block.store("mean", mean, m_rows)
    block.store("rstd", rstd, m_rows)


def _rms_norm(block: Block, problem: Attention) -> None:
    m_rows, one = block.rows("q"), block.all("one")
    x = block.load("X", m_rows).to("fp32")
    rstd = _inverse_root((x * x).row_sum() * (1 / problem.seqlen_k))
    weight = block.load("weight", one).to("fp32")
    block.store("out", (x * rstd * weight).to(problem.dtype), m_rows)
    block.store("rstd", rstd, m_rows)


def norm_kernel(problem: Attention, operation: str, mapping: Mapping, rows: int) -> Kernel:
    """read X, weight[, bias]; write out, [mean,] rstd, which the backward pass takes.

    Args:
        operation: `layer` or `rms`.
        rows: whole ones that a block owns.
    """
    dtype, layer = problem.dtype, operation == "layer"
    weights = ("weight", "bias") if layer else ("weight",)
    saved = ("mean", "rstd") if layer else ("rstd",)
    return Kernel(
        name=f"{operation}_norm",
        program=_layer_norm if layer else _rms_norm,
        problem=problem,
        grid=("q", "head", "batch"),
        lengths={**axes_of(problem), "one": 1},
        tiles={"q": rows},
        tensors=(
            Tensor("X", SCORES, dtype),
            *(Tensor(name, WEIGHTS, dtype) for name in weights),
            Tensor("out", SCORES, dtype),
            *(Tensor(name, ROWS, "fp32") for name in saved),
        ),
        mapping=mapping,
    )
