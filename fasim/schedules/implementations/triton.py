"""Triton's tutorial 06, fused attention, with the picks it shipped before it was autotuned.

Forward is FlashAttention-2's program with K/V ascending; backward is the two-pass program. The
tutorial runs both passes in one launch, and scales K in a kernel of its own before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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


@dataclass(frozen=True, slots=True)
class Pick:
    """Rows of Q and of K/V that a block takes at a time, its warps, stages of its loop."""

    tile_m: int
    tile_n: int
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class Picks:
    """Of forward, and of the two passes of backward: blocks that own keys, and own queries."""

    forward: Pick
    keys: Pick
    queries: Pick


# Backward, at every head dimension: 128 rows a block owns, 32 it takes a step.
KEYS, QUERIES = Pick(32, 128, 4, 5), Pick(128, 32, 4, 5)


def picks(architecture: str, head_dim: int) -> Picks:
    """What the tutorial takes."""
    tile_n, stages = (64, 4) if head_dim <= 64 else (32, 3)
    warps = 4
    if architecture == "sm_90" and head_dim >= 64:
        warps, stages = 8, 7
    return Picks(Pick(128, tile_n, warps, stages), KEYS, QUERIES)


def forward_mapping(gpu: Gpu, warps: int, stages: int, source: str) -> Mapping:
    """Q stays in shared memory; K and V come `stages` steps ahead; P stays in registers.

    On Hopper the compiler multiplies by wgmma; tiles still come by cp.async.
    """
    return Mapping(
        warps,
        matrix_unit="wgmma" if "wgmma" in gpu.features else "mma.sync",
        buffers=(("Q", 1), ("K", stages), ("V", stages)),
        operands_in_registers=("O",),
        source=source,
    )


def key_mapping(pick: Pick, source: str) -> Mapping:
    """dK and dV: Sᵀ and dPᵀ are computed, so that warps own rows of K/V throughout."""
    rows_of_keys = (pick.warps, 1)
    return Mapping(
        pick.warps,
        buffers=(("K", 1), ("V", 1), ("Q", pick.stages), ("dO", pick.stages)),
        operands_in_registers=("dV", "dK"),
        warp_grid=(1, pick.warps),
        warp_grids=(("dV", rows_of_keys), ("dK", rows_of_keys)),
        source=source,
    )


def query_mapping(pick: Pick, source: str) -> Mapping:
    """dQ: warps own rows of Q."""
    return Mapping(
        pick.warps,
        buffers=(("Q", 1), ("dO", 1), ("K", pick.stages), ("V", pick.stages)),
        operands_in_registers=("dQ",),
        source=source,
    )


def plan_of(
    name: str, source: str, chosen: Picks, problem: Attention, gpu: Gpu, options: Options
) -> Plan:
    """The chain with these picks, or with the tile that was asked for."""
    first, keys, queries = chosen.forward, chosen.keys, chosen.queries
    if options.tile is not None:
        tile_m, tile_n = options.tile
        warps = warps_for(options.tile, problem.head_dim)
        first = replace(first, tile_m=tile_m, tile_n=tile_n, warps=warps)
        keys = replace(keys, tile_m=tile_n, tile_n=tile_m)
        queries = replace(queries, tile_m=tile_m, tile_n=tile_n)

    def forward() -> tuple[Kernel, ...]:
        mapping = forward_mapping(gpu, first.warps, first.stages, source)
        tiling = Tiling(first.tile_m, first.tile_n)
        (kernel,) = flash2.kernels(problem, tiling, mapping)
        return (replace(kernel, grid=("q", "head", "batch")),)

    def backward() -> tuple[Kernel, ...]:
        return two_pass.kernels(
            problem,
            Tiling(keys.tile_m, keys.tile_n),
            key_mapping(keys, source),
            Tiling(queries.tile_m, queries.tile_n),
            query_mapping(queries, source),
        )

    chain = chain_of(problem, forward, backward)
    tile, back = (first.tile_m, first.tile_n), (queries.tile_m, queries.tile_n)
    assumptions = backward_tile(problem, tile, back)
    shown = back if problem.direction == "backward" else tile
    return Plan("flash2", name, chain, shown, assumptions)


def _build(problem: Attention, gpu: Gpu, options: Options) -> Plan:
    chosen = picks(gpu.architecture, problem.head_dim)
    return plan_of("triton", SOURCE, chosen, problem, gpu, options)


def check(problem: Attention, gpu: Gpu) -> str | None:
    """Why the kernels cannot take a problem; None if they can."""
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
    check=check,
)
