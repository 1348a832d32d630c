"""Read, write and atomic add, again and again over one working set: the rates of L2.

No schedule has them. Reads go past L1, so that a working set that L2 holds is read from there.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from fasim.problem import Attention
from gpu_kernels.launch import launch
from gpu_kernels.tiles import Pick
from gpu_kernels.variant import Variant, compiled_with

# Eight warps with 16 bytes a thread and load, four loads under way: 16 KiB a block.
BLOCK_ELEMENTS, WARPS = 4096, 8
REPEATS = 64


@triton.jit
def read_sweep_kernel(X, Y, blocks, BLOCK: tl.constexpr, REPEATS: tl.constexpr):
    """read X ; write Y

    Y [programs]: the sum of the REPEATS blocks of X that a program reads, each as many further as
    there are programs, round and round. Grid: programs.
    """
    at = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for turn in tl.range(0, REPEATS):
        block = (tl.program_id(0) + turn * tl.num_programs(0)) % blocks
        total += tl.load(X + block.to(tl.int64) * BLOCK + at, cache_modifier=".cg")
    tl.store(Y + tl.program_id(0), tl.sum(total, 0))


@triton.jit
def write_sweep_kernel(Y, blocks, BLOCK: tl.constexpr, REPEATS: tl.constexpr):
    """read ; write Y

    Y = an element's place in its block, fp32, over the same blocks. Grid: programs.
    """
    at = tl.arange(0, BLOCK)
    for turn in tl.range(0, REPEATS):
        block = (tl.program_id(0) + turn * tl.num_programs(0)) % blocks
        tl.store(Y + block.to(tl.int64) * BLOCK + at, at.to(tl.float32))


@triton.jit
def add_sweep_kernel(Y, blocks, BLOCK: tl.constexpr, REPEATS: tl.constexpr):
    """read ; write Y

    Y += 1 atomically, fp32, over the same blocks; nobody asks for what was there, so that it is a
    reduction (RED). Grid: programs.
    """
    at = tl.arange(0, BLOCK)
    one = tl.full([BLOCK], 1.0, tl.float32)
    for turn in tl.range(0, REPEATS):
        block = (tl.program_id(0) + turn * tl.num_programs(0)) % blocks
        tl.atomic_add(Y + block.to(tl.int64) * BLOCK + at, one, sem="relaxed")


KERNELS = {"read": read_sweep_kernel, "write": write_sweep_kernel, "add": add_sweep_kernel}


def read_sweep(x: torch.Tensor, programs: int, repeats: int = REPEATS) -> torch.Tensor:
    """Sums of the blocks that each program read, of a flat fp32 tensor of whole blocks.

    Raises:
        ValueError: a length that is not a multiple of 4096.
    """
    y = x.new_empty(programs)
    _sweep("read", {"X": x, "Y": y}, x, programs, repeats)
    return y


def write_sweep(y: torch.Tensor, programs: int, repeats: int = REPEATS) -> torch.Tensor:
    """A flat fp32 tensor of whole blocks, filled.

    Raises:
        ValueError: a length that is not a multiple of 4096.
    """
    _sweep("write", {"Y": y}, y, programs, repeats)
    return y


def add_sweep(y: torch.Tensor, programs: int, repeats: int = REPEATS) -> torch.Tensor:
    """A flat fp32 tensor of whole blocks, each element 1 higher a visit.

    Raises:
        ValueError: a length that is not a multiple of 4096.
    """
    _sweep("add", {"Y": y}, y, programs, repeats)
    return y


def _sweep(
    kind: str, tensors: dict[str, torch.Tensor], swept: torch.Tensor, programs: int, repeats: int
) -> None:
    if swept.numel() % BLOCK_ELEMENTS:
        raise ValueError(f"{swept.numel()} elements; it takes a multiple of {BLOCK_ELEMENTS}")
    constants: dict[str, Any] = {"BLOCK": BLOCK_ELEMENTS, "REPEATS": repeats, "num_warps": WARPS}
    blocks = swept.numel() // BLOCK_ELEMENTS
    launch(f"{kind}_sweep", KERNELS[kind], (programs,), tensors, blocks, **constants)


def variants(arch: str) -> list[Variant]:  # noqa: ARG001 - as every module has it
    """The kernels as they are compiled, the same everywhere."""
    problem, pick = Attention(1, 1, 1, 1, 1, dtype="fp32"), Pick(1, BLOCK_ELEMENTS, WARPS)
    return [
        compiled_with(
            f"{name}-sweep",
            kernel,
            {"X": "*fp32", "Y": "*fp32"},
            {"BLOCK": BLOCK_ELEMENTS, "REPEATS": REPEATS},
            problem,
            pick,
            schedule="",
            kernel_name=f"{name}_sweep",
        )
        for name, kernel in KERNELS.items()
    ]
