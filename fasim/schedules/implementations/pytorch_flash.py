"""PyTorch's build of FlashAttention-2: the kernels of `flash-attn-2`, compiled without fast-math.

Every exponential keeps denormals, the scale is multiplied in by itself: 18.5 instructions a score
instead of 13.9 at head_dim 128.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules.implementations import flash_attn_2
from fasim.schedules.plan import Entry, Options, Plan

if TYPE_CHECKING:
    from fasim.hardware import Gpu

SOURCE = "libtorch_cuda.so of torch 2.15, disassembled; pytorch/pytorch aten/.../flash_attn"


def _build(problem: Attention, gpu: Gpu, options: Options) -> Plan:
    plan = flash_attn_2.ENTRY.build(problem, gpu, options)
    # Compiled by a ptxas of 2025, which guards no fragments.
    kernels = tuple(
        replace(
            kernel,
            mapping=replace(
                kernel.mapping, fast_math=False, guarded_fragments=False, source=SOURCE
            ),
        )
        for kernel in plan.kernels
    )
    return replace(plan, implementation="pytorch-flash", kernels=kernels)


ENTRY = Entry(
    name="pytorch-flash",
    schedule="flash2",
    title="PyTorch's flash backend: flash-attn-2's kernels without fast-math",
    source=SOURCE,
    needs=flash_attn_2.ENTRY.needs,
    build=_build,
    check=flash_attn_2.ENTRY.check,
    features=flash_attn_2.ENTRY.features,
    takes=("tile", "warps", "num_splits", "pack_gqa"),
)
