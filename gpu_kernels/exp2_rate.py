"""exp2 alone: the rate of the special-function unit, a device fact.

No schedule has it. Every thread raises some independent values again and again: x ← 2^(−x), which
stays in (0, 1] and goes to 0.6412, so that no range is special.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fasim.problem import Attention
from gpu_kernels.launch import launch
from gpu_kernels.tiles import Pick
from gpu_kernels.variant import Variant, compiled_with

# Four warps, eight values a thread: eight chains hide the latency of one.
BLOCK_ELEMENTS, WARPS = 1024, 4
REPEATS = 1024


@triton.jit
def exp2_kernel(X, Y, BLOCK: tl.constexpr, REPEATS: tl.constexpr):
    """read X ; write Y

    Y = x ← 2^(−x), REPEATS times, fp32. Grid: blocks of BLOCK elements.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(X + at)
    for _ in tl.range(0, REPEATS):
        x = tl.exp2(-x)
    tl.store(Y + at, x)


def exp2_chain(x: torch.Tensor, repeats: int = REPEATS) -> torch.Tensor:
    """2^(−x) of a flat fp32 tensor of whole blocks, `repeats` times over.

    Raises:
        ValueError: a length that is not a multiple of 1024.
    """
    if x.numel() % BLOCK_ELEMENTS:
        raise ValueError(f"x has {x.numel()} elements; it takes a multiple of {BLOCK_ELEMENTS}")
    y = torch.empty_like(x)
    grid = (x.numel() // BLOCK_ELEMENTS,)
    constants = {"BLOCK": BLOCK_ELEMENTS, "REPEATS": repeats}
    launch("exp2_rate", exp2_kernel, grid, {"X": x, "Y": y}, **constants, num_warps=WARPS)
    return y


def variants(arch: str) -> list[Variant]:  # noqa: ARG001 - as every module has it
    """The kernel as it is compiled, the same everywhere."""
    return [
        compiled_with(
            "exp2-rate",
            exp2_kernel,
            {"X": "*fp32", "Y": "*fp32"},
            {"BLOCK": BLOCK_ELEMENTS, "REPEATS": REPEATS},
            Attention(1, 1, 1, 1, 1, dtype="fp32"),
            Pick(1, BLOCK_ELEMENTS, WARPS),
            schedule="",
            kernel_name="exp2_rate",
        )
    ]
