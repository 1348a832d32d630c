"""F2FP alone: the rate at which two FP32 values are rounded and packed into one FP16 pair.

No schedule has it; a fused kernel does it to P. The 32 bits that come out go in again as FP32, so
that nothing but the conversion is in the loop. Inline PTX, which no interpreter runs.
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
def convert_kernel(X, Y, BLOCK: tl.constexpr, REPEATS: tl.constexpr):
    """read X ; write Y

    Y = x ← the bits of (fp16(x), fp16(X)), REPEATS times, fp32. Grid: blocks of BLOCK elements.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    low = tl.load(X + at)
    x = low
    for _ in tl.range(0, REPEATS):
        pair = tl.inline_asm_elementwise(
            "cvt.rn.f16x2.f32 $0, $1, $2;",
            "=r,f,f",
            [x, low],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
        x = pair.to(tl.float32, bitcast=True)
    tl.store(Y + at, x)


def convert_chain(x: torch.Tensor, repeats: int = REPEATS) -> torch.Tensor:
    """Conversions of a flat fp32 tensor of whole blocks, `repeats` an element.

    Raises:
        ValueError: a length that is not a multiple of 1024.
    """
    if x.numel() % BLOCK_ELEMENTS:
        raise ValueError(f"x has {x.numel()} elements; it takes a multiple of {BLOCK_ELEMENTS}")
    y = torch.empty_like(x)
    grid = (x.numel() // BLOCK_ELEMENTS,)
    constants = {"BLOCK": BLOCK_ELEMENTS, "REPEATS": repeats}
    launch("convert_rate", convert_kernel, grid, {"X": x, "Y": y}, **constants, num_warps=WARPS)
    return y


def variants(arch: str) -> list[Variant]:  # noqa: ARG001 - as every module has it
    """The kernel as it is compiled, the same everywhere."""
    return [
        compiled_with(
            "convert-rate",
            convert_kernel,
            {"X": "*fp32", "Y": "*fp32"},
            {"BLOCK": BLOCK_ELEMENTS, "REPEATS": REPEATS},
            Attention(1, 1, 1, 1, 1, dtype="fp32"),
            Pick(1, BLOCK_ELEMENTS, WARPS),
            schedule="",
            kernel_name="convert_rate",
        )
    ]
