"""Eager PyTorch's copies: Q, K and V laid out for batched products, and gradients laid out back.

Forward each is a clone. Backward of `unbind` stacks dQ, dK and dV into the gradient of one packed
tensor [batch, seqlen, 3, heads, head_dim], by one launch of a kernel that takes any strides: since
1.12, `stack` is `cat`, and `cat` of tensors that are not contiguous is `CatArrayBatchedCopy`.
"""

from __future__ import annotations

from collections.abc import Callable

from fasim.problem import Attention
from fasim.schedules.chain import KEY, QUERY, axes_of
from fasim.schedules.implementations.pytorch_elementwise import (
    COPY_FOUR_AXES,
    COPY_THREE_AXES,
    ELEMENTS_PER_BLOCK,
    STACK,
    rows_of_block,
    streaming,
    warps_of_row,
)
from fasim.schedules.language import Block, Kernel, Tensor

GRADIENTS = ("dQ", "dK", "dV")


def copy_program(pairs: dict[str, str], axis: str) -> Callable[[Block, Attention], None]:
    """read tensors, write others with the same values, in tiles of these rows."""

    def copy(block: Block, _: Attention) -> None:
        rows = block.rows(axis)
        for source, target in pairs.items():
            block.store(target, block.load(source, rows), rows)

    return copy


def copy_kernel(
    problem: Attention,
    source: str,
    target: str,
    axes: tuple[str, ...],
    instructions: float = COPY_FOUR_AXES,
) -> Kernel:
    """read one tensor; write it again, laid out for a batched GEMM.

    Args:
        instructions: an element.
    """
    axis, lengths = axes[2], axes_of(problem)
    return Kernel(
        name=f"copy_{source}",
        program=copy_program({source: target}, axis),
        problem=problem,
        grid=(axis, axes[1], "batch"),
        lengths=lengths,
        tiles={axis: rows_of_block(lengths[axis], problem.head_dim)},
        tensors=(Tensor(source, axes, problem.dtype), Tensor(target, axes, problem.dtype)),
        mapping=streaming(instructions, warps=4),
    )


def transposed_copy_kernel(problem: Attention) -> Kernel:
    """read K; write K_copy, in which the keys of one column lie side by side.

    A warp writes a piece of such a column, and each of its reads takes a sector of its own.
    """

    def copy(block: Block, _: Attention) -> None:
        n_rows, columns = block.rows("k"), block.rows("d")
        block.store("K_copy", block.load("K", n_rows, columns), n_rows, columns)

    keys = min(ELEMENTS_PER_BLOCK, problem.seqlen_k)
    return Kernel(
        name="copy_K",
        program=copy,
        problem=problem,
        grid=("k", "d", "kv_head", "batch"),
        lengths=axes_of(problem),
        tiles={"k": keys, "d": min(ELEMENTS_PER_BLOCK // keys, problem.head_dim)},
        tensors=(
            Tensor("K", KEY, problem.dtype),
            Tensor("K_copy", KEY, problem.dtype, innermost="k"),
        ),
        mapping=streaming(COPY_THREE_AXES, warps=4),
    )


def stack_kernel(problem: Attention) -> Kernel:
    """read dQ_copy, dK_copy, dV_copy; write dQ, dK, dV token by token, as the packed tensor lies.

    Threads go along a token's columns. The keys of a column of dK_copy lie side by side, so that
    each of a warp's reads of it takes a sector of its own.
    """
    copied = {f"{name}_copy": name for name in GRADIENTS}
    return Kernel(
        name="stack_gradients",
        program=copy_program(copied, "k"),
        problem=problem,
        grid=("kv_head", "k", "batch"),
        lengths=axes_of(problem),
        tiles={"k": 1},
        tensors=tuple(
            Tensor(name, KEY, problem.dtype, innermost="k" if name == "dK_copy" else "")
            for name in (*copied, *GRADIENTS)
        ),
        mapping=streaming(len(GRADIENTS) * STACK, warps_of_row(problem.head_dim)),
    )


def _key_copy_kernel(problem: Attention) -> Kernel:
    """read dK_copy; write dK, as `stack_kernel` does by itself."""
    return Kernel(
        name="copy_dK_copy",
        program=copy_program({"dK_copy": "dK"}, "k"),
        problem=problem,
        grid=("kv_head", "k", "batch"),
        lengths=axes_of(problem),
        tiles={"k": 1},
        tensors=(
            Tensor("dK_copy", KEY, problem.dtype, innermost="k"),
            Tensor("dK", KEY, problem.dtype),
        ),
        mapping=streaming(COPY_THREE_AXES, warps_of_row(problem.head_dim)),
    )


def gradient_kernels(problem: Attention) -> tuple[Kernel, ...]:
    """dQ, dK and dV into place: stacked, if Q, K and V can be packed; otherwise each is copied."""
    if problem.seqlen_q == problem.seqlen_k and problem.group == 1:
        return (stack_kernel(problem),)
    query = copy_kernel(problem, "dQ_copy", "dQ", QUERY)
    if problem.group > 1:
        return (query,)
    return (query, _key_copy_kernel(problem), copy_kernel(problem, "dV_copy", "dV", KEY))
