"""The loop in which a kernel spends its time."""

from __future__ import annotations

from collections.abc import Sequence

from gpu_kernels.compile.control_flow import Loop, loops_of
from gpu_kernels.compile.sass import Instruction


def main_loop(function: Sequence[Instruction]) -> Loop | None:
    """The innermost loop that holds the most tensor-core instructions; None without a loop.

    Of two alike, the shorter: a kernel with a mask has a loop without it as well. In a kernel
    that multiplies no matrices, the innermost loop with the most instructions.
    """
    loops = loops_of(function)
    multiplying = [loop for loop in loops if _products(loop)]
    if multiplying:
        innermost = _innermost(multiplying)
        return max(innermost, key=lambda loop: (_products(loop), -len(loop.own)))
    return max(_innermost(loops), key=lambda loop: len(loop.own), default=None)


def _innermost(loops: list[Loop]) -> list[Loop]:
    """Those of them that hold no other of them."""
    headers = {loop.header for loop in loops}
    return [
        loop
        for loop in loops
        if not (headers - {loop.header}) & {each.address for each in loop.instructions}
    ]


def _products(loop: Loop) -> int:
    return sum(each.is_tensor for each in loop.instructions)
