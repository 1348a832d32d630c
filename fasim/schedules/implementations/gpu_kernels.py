"""The kernels of `gpu_kernels`: flash2 forward and two-pass backward in Triton.

The programs of Triton's tutorial. Tiles are large ones among the usual that Triton 3.9 compiles
without a spill, causal and not; no time was looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules.implementations.triton import (
    Pick,
    Picks,
    check,
    plan_of,
)
from fasim.schedules.plan import Entry, Options, Plan

if TYPE_CHECKING:
    from fasim.hardware import Gpu

SOURCE = "gpu_kernels/, as Triton 3.9 compiles them"

# By architecture: up to head_dim 64, and beyond.
PICKS = {
    "sm_80": (
        Picks(Pick(128, 64, 4, 3), Pick(32, 64, 4, 3), Pick(128, 32, 4, 3)),
        Picks(Pick(128, 64, 8, 3), Pick(16, 128, 8, 3), Pick(128, 32, 8, 3)),
    ),
    "sm_89": (
        Picks(Pick(128, 64, 4, 3), Pick(32, 64, 4, 3), Pick(128, 32, 4, 3)),
        Picks(Pick(128, 64, 8, 3), Pick(16, 128, 8, 3), Pick(128, 32, 8, 3)),
    ),
    "sm_90": (
        Picks(Pick(128, 128, 8, 3), Pick(64, 128, 8, 2), Pick(128, 64, 8, 2)),
        Picks(Pick(128, 64, 8, 3), Pick(32, 128, 8, 3), Pick(128, 64, 8, 2)),
    ),
    "sm_100": (
        Picks(Pick(128, 128, 8, 3), Pick(64, 128, 8, 2), Pick(128, 64, 8, 2)),
        Picks(Pick(128, 64, 8, 3), Pick(64, 128, 8, 2), Pick(128, 64, 8, 2)),
    ),
}


def picks(architecture: str, head_dim: int) -> Picks:
    """Of both directions; an architecture without tiles of its own takes those of sm_89."""
    narrow, wide = PICKS.get(architecture, PICKS["sm_89"])
    return narrow if head_dim <= 64 else wide


def _build(problem: Attention, gpu: Gpu, options: Options) -> Plan:
    chosen = picks(gpu.architecture, problem.head_dim)
    return plan_of("gpu-kernels", SOURCE, chosen, problem, gpu, options)


ENTRY = Entry(
    name="gpu-kernels",
    schedule="flash2",
    title="fasim's own Triton kernels; backward in two passes, without atomics",
    source=SOURCE,
    needs="fp16 or bf16, head_dim 16, 32, 64 or 128",
    build=_build,
    check=check,
)
