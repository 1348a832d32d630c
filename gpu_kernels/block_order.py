"""Which SM each block runs on, and when it begins: how a GPU hands out a grid.

No schedule has it. Inline PTX, which no interpreter runs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fasim.problem import Attention
from gpu_kernels.launch import launch
from gpu_kernels.tiles import Pick
from gpu_kernels.variant import Variant, compiled_with

# A block of 32 warps fills half of an SM's, or more: one or two are resident.
BLOCK_ELEMENTS, WARPS = 1024, 32
REPEATS = 2048  # of work, so that blocks of the first wave are there together


@triton.jit
def order_kernel(SM, BEGIN, Y, BLOCK: tl.constexpr, REPEATS: tl.constexpr):
    """read ; write SM BEGIN Y

    SM [blocks]: %smid, int32; BEGIN [blocks]: %globaltimer in ns, int64; Y [blocks, BLOCK]: what
    keeps the block busy. Grid: blocks.
    """
    block = tl.program_id(0)
    begin = tl.inline_asm_elementwise(
        "mov.u64 $0, %globaltimer;", "=l", [], dtype=tl.int64, is_pure=False, pack=1
    )
    sm = tl.inline_asm_elementwise(
        "mov.u32 $0, %smid;", "=r", [], dtype=tl.int32, is_pure=False, pack=1
    )
    x = (tl.arange(0, BLOCK) + block).to(tl.float32) / BLOCK
    for _ in tl.range(0, REPEATS):
        x = tl.exp2(-x)
    tl.store(Y + block * BLOCK + tl.arange(0, BLOCK), x)
    tl.store(SM + block, sm)
    tl.store(BEGIN + block, begin)


def block_order(blocks: int, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """(SM, begin in ns) of each block of a grid, [blocks] both."""
    sm = torch.empty(blocks, dtype=torch.int32, device=device)
    begin = torch.empty(blocks, dtype=torch.int64, device=device)
    y = torch.empty(blocks * BLOCK_ELEMENTS, dtype=torch.float32, device=device)
    launch(
        "block_order",
        order_kernel,
        (blocks,),
        {"SM": sm, "BEGIN": begin, "Y": y},
        BLOCK=BLOCK_ELEMENTS,
        REPEATS=REPEATS,
        num_warps=WARPS,
    )
    return sm, begin


def variants(arch: str) -> list[Variant]:  # noqa: ARG001 - as every module has it
    """The kernel as it is compiled, the same everywhere."""
    return [
        compiled_with(
            "block-order",
            order_kernel,
            {"SM": "*i32", "BEGIN": "*i64", "Y": "*fp32"},
            {"BLOCK": BLOCK_ELEMENTS, "REPEATS": REPEATS},
            Attention(1, 1, 1, 1, 1, dtype="fp32"),
            Pick(1, BLOCK_ELEMENTS, WARPS),
            schedule="",
            kernel_name="block_order",
        )
    ]
