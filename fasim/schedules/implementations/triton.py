"""Triton's tutorial 06, fused attention, with the picks it shipped before it was autotuned.

Forward is FlashAttention-2's program with K/V ascending; backward is the two-pass program. The
tutorial runs both passes in one launch, and scales K in a kernel of its own before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules import flash2, two_pass
from fasim.schedules.language import Kernel
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import (
    Entry,
    Options,
    Plan,
    backward_tile,
    chain_of,
    check_dtype,
    listed,
    warps_for,
)
from fasim.schedules.tiling import Tiling

if TYPE_CHECKING:
    from fasim.hardware import Gpu

SOURCE = "triton-lang/triton python/tutorials/06-fused-attention.py, 2023-09 to 2024-05"
DTYPES = ("fp16", "bf16")
HEAD_DIMS = (16, 32, 64, 128)
# Backward: rows a block owns, rows it takes a step, warps, stages.
OWN_ROWS, STEP_ROWS, BACKWARD_WARPS, BACKWARD_STAGES = 128, 32, 4, 5


def forward_pick(architecture: str, head_dim: int) -> tuple[int, int, int, int]:
    """(tile_m, tile_n, warps, stages)."""
    tile_n, stages = (64, 4) if head_dim <= 64 else (32, 3)
    if architecture == "sm_90" and head_dim >= 64:
        return 128, tile_n, 8, 7
    return 128, tile_n, 4, stages


def forward_mapping(gpu: Gpu, warps: int, stages: int) -> Mapping:
    """Q stays in shared memory; K and V come `stages` steps ahead; P stays in registers.

    On Hopper the compiler multiplies by wgmma; tiles still come by cp.async.
    """
    return Mapping(
        warps,
        matrix_unit="wgmma" if "wgmma" in gpu.features else "mma.sync",
        buffers=(("Q", 1), ("K", stages), ("V", stages)),
        operands_in_registers=("O",),
        source=SOURCE,
    )


def key_mapping(stages: int = BACKWARD_STAGES) -> Mapping:
    """dK and dV: the tutorial computes Sᵀ and dPᵀ, so that warps own rows of K/V throughout."""
    rows_of_keys = (BACKWARD_WARPS, 1)
    return Mapping(
        BACKWARD_WARPS,
        buffers=(("K", 1), ("V", 1), ("Q", stages), ("dO", stages)),
        operands_in_registers=("dV", "dK"),
        warp_grid=(1, BACKWARD_WARPS),
        warp_grids=(("dV", rows_of_keys), ("dK", rows_of_keys)),
        source=SOURCE,
    )


def query_mapping(stages: int = BACKWARD_STAGES) -> Mapping:
    """dQ: warps own rows of Q."""
    return Mapping(
        BACKWARD_WARPS,
        buffers=(("Q", 1), ("dO", 1), ("K", stages), ("V", stages)),
        operands_in_registers=("dQ",),
        source=SOURCE,
    )


def _build(problem: Attention, gpu: Gpu, options: Options) -> Plan:
    tile_m, tile_n, warps, stages = forward_pick(gpu.architecture, problem.head_dim)
    keys, queries = Tiling(STEP_ROWS, OWN_ROWS), Tiling(OWN_ROWS, STEP_ROWS)
    if options.tile is not None:
        tile_m, tile_n = options.tile
        warps = warps_for(options.tile, problem.head_dim)
        keys, queries = Tiling(tile_n, tile_m), Tiling(tile_m, tile_n)

    def forward() -> tuple[Kernel, ...]:
        mapping = forward_mapping(gpu, warps, stages)
        (kernel,) = flash2.kernels(problem, Tiling(tile_m, tile_n), mapping)
        return (replace(kernel, grid=("q", "head", "batch")),)

    def backward() -> tuple[Kernel, ...]:
        return two_pass.kernels(problem, keys, key_mapping(), queries, query_mapping())

    chain = chain_of(problem, forward, backward)
    tile, back = (tile_m, tile_n), (queries.tile_m, queries.tile_n)
    assumptions = backward_tile(problem, tile, back)
    return Plan(
        "flash2", "triton", chain, back if problem.direction == "backward" else tile, assumptions
    )


def _check(problem: Attention, gpu: Gpu) -> str | None:
    if problem.dtype not in DTYPES:
        return f"it takes {listed(DTYPES)}, not {problem.dtype}"
    if problem.head_dim not in HEAD_DIMS:
        taken = listed([str(head_dim) for head_dim in HEAD_DIMS])
        return f"it takes head_dim {taken}, not {problem.head_dim}"
    return check_dtype(problem, gpu)


ENTRY = Entry(
    name="triton",
    schedule="flash2",
    title="Triton's fused-attention tutorial; backward in two passes, without atomics",
    source=SOURCE,
    needs="fp16 or bf16, head_dim 16, 32, 64 or 128",
    build=_build,
    check=_check,
)
