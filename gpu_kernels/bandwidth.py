"""Copy, read and write: the device facts of DRAM and L2, over a working set of any size.

No schedule has them; every byte of the working set moves once a launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fasim.problem import Attention
from gpu_kernels.launch import launch
from gpu_kernels.tiles import Pick
from gpu_kernels.variant import Variant, compiled_with

# Eight warps with 16 bytes a thread and load, four loads under way: 16 KiB a block.
BLOCK_ELEMENTS, WARPS = 4096, 8


@triton.jit
def copy_kernel(X, Y, elements, BLOCK: tl.constexpr):
    """read X ; write Y

    Y = X, fp32. Grid: blocks of BLOCK elements.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(Y + at, tl.load(X + at, mask=at < elements), mask=at < elements)


@triton.jit
def read_kernel(X, Y, elements, BLOCK: tl.constexpr):
    """read X ; write Y

    Y [blocks]: the sum of each block, so that no load is dead. Grid: blocks of BLOCK elements.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(X + at, mask=at < elements, other=0.0)
    tl.store(Y + tl.program_id(0), tl.sum(x, 0))


@triton.jit
def write_kernel(Y, elements, BLOCK: tl.constexpr):
    """read ; write Y

    Y = an element's own number modulo 4096, fp32: no two neighbours alike, which a memory that
    compresses could fold. Grid: blocks of BLOCK elements.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(Y + at, (at % 4096).to(tl.float32), mask=at < elements)


def copy(x: torch.Tensor) -> torch.Tensor:
    """A copy of a flat fp32 tensor."""
    y = torch.empty_like(x)
    _over_blocks("copy", copy_kernel, {"X": x, "Y": y}, x.numel())
    return y


def read(x: torch.Tensor) -> torch.Tensor:
    """The sums of the blocks of a flat fp32 tensor."""
    y = x.new_empty(triton.cdiv(x.numel(), BLOCK_ELEMENTS))
    _over_blocks("read", read_kernel, {"X": x, "Y": y}, x.numel())
    return y


def write(y: torch.Tensor) -> torch.Tensor:
    """A flat fp32 tensor, filled with numbers."""
    _over_blocks("write", write_kernel, {"Y": y}, y.numel())
    return y


def _over_blocks(
    name: str, kernel: object, tensors: dict[str, torch.Tensor], elements: int
) -> None:
    grid = (triton.cdiv(elements, BLOCK_ELEMENTS),)
    launch(name, kernel, grid, tensors, elements, BLOCK=BLOCK_ELEMENTS, num_warps=WARPS)


def variants(arch: str) -> list[Variant]:  # noqa: ARG001 - as every module has it
    """The kernels as they are compiled, the same everywhere."""
    problem, pick = Attention(1, 1, 1, 1, 1, dtype="fp32"), Pick(1, BLOCK_ELEMENTS, WARPS)
    return [
        compiled_with(
            f"bandwidth-{name}",
            kernel,
            {"X": "*fp32", "Y": "*fp32"},
            {"BLOCK": BLOCK_ELEMENTS},
            problem,
            pick,
            schedule="",
            kernel_name=name,
        )
        for name, kernel in (("copy", copy_kernel), ("read", read_kernel), ("write", write_kernel))
    ]
