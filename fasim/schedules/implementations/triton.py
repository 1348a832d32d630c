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
from fasim.schedules.mapping import Mapping, MatrixUnit
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
    """Rows of Q and of K/V that a block takes at a time, its warps, stages of its loop.

    Attributes:
        plain_loads: tensors whose tiles the compiler does not fetch ahead, whatever the stages.
    """

    tile_m: int
    tile_n: int
    warps: int
    stages: int
    plain_loads: tuple[str, ...] = ()

    def buffered(self, tensor: str, gpu: Gpu, products: int) -> tuple[str, int]:
        """A tensor whose tiles come step by step, `products` taking each, and its buffers."""
        plain = tensor in self.plain_loads
        return tensor, 1 if plain else buffers(gpu, self.stages, products=products)


@dataclass(frozen=True, slots=True)
class Picks:
    """Of forward, and of the two passes of backward: blocks that own keys, and own queries."""

    forward: Pick
    keys: Pick
    queries: Pick


# Backward, at every head dimension: 128 rows a block owns, 32 it takes a step. Tiles taken twice,
# once transposed, are not fetched ahead (compiled with Triton 2.1.0).
KEYS = Pick(32, 128, 4, 5, plain_loads=("Q", "dO"))
QUERIES = Pick(128, 32, 4, 5, plain_loads=("K",))


def picks(architecture: str, head_dim: int) -> Picks:
    """What the tutorial takes."""
    tile_n, stages = (64, 4) if head_dim <= 64 else (32, 3)
    warps = 4
    if architecture == "sm_90" and head_dim >= 64:
        warps, stages = 8, 7
    return Picks(Pick(128, tile_n, warps, stages), KEYS, QUERIES)


def buffers(gpu: Gpu, stages: int, *, products: int = 1, from_shared: bool = True) -> int:
    """Tiles that a pipelined load keeps in shared memory.

    One a stage where the tensor cores read them there while the next comes; one fewer for
    mma.sync, which has its operands in registers by then; one more for tcgen05, whose products
    run on into the next step, if two of them take the tile. So Triton 3.9 allocates them (TTGIR).

    Args:
        products: that take the tile.
        from_shared: whether the tile's rows are enough for wgmma and tcgen05.
    """
    if from_shared and "tcgen05" in gpu.features:
        return stages + products - 1
    return stages if from_shared and "wgmma" in gpu.features else max(1, stages - 1)


def matrix_unit(gpu: Gpu) -> MatrixUnit:
    """What the compiler multiplies by: wgmma where there is any."""
    return "wgmma" if "wgmma" in gpu.features else "mma.sync"


def forward_mapping(gpu: Gpu, pick: Pick, source: str) -> Mapping:
    """Q stays in shared memory; K and V come ahead; P stays in registers.

    On Hopper the compiler multiplies by wgmma; tiles still come by cp.async. `tl.sum` gives the
    whole sum of a row, in every step.
    """
    ahead = buffers(gpu, pick.stages)
    return Mapping(
        pick.warps,
        matrix_unit=matrix_unit(gpu),
        buffers=(("Q", 1), ("K", ahead), ("V", ahead)),
        operands_in_registers=("O",),
        sums_every_step=True,
        source=source,
    )


def key_mapping(gpu: Gpu, pick: Pick, source: str) -> Mapping:
    """dK and dV: Sᵀ and dPᵀ are computed, so that warps own rows of K/V throughout."""
    unit, rows_of_keys = matrix_unit(gpu), (pick.warps, 1)
    return Mapping(
        pick.warps,
        matrix_unit=unit,
        buffers=(("K", 1), ("V", 1), pick.buffered("Q", gpu, 2), pick.buffered("dO", gpu, 2)),
        plain_loads=pick.plain_loads,
        transposed_matmuls=("S", "dP") if unit == "wgmma" else (),
        operands_in_registers=("dV", "dK"),
        warp_grid=(1, pick.warps),
        warp_grids=(("dV", rows_of_keys), ("dK", rows_of_keys)),
        source=source,
    )


def query_mapping(gpu: Gpu, pick: Pick, source: str) -> Mapping:
    """dQ: warps own rows of Q."""
    return Mapping(
        pick.warps,
        matrix_unit=matrix_unit(gpu),
        buffers=(("Q", 1), ("dO", 1), pick.buffered("K", gpu, 2), pick.buffered("V", gpu, 1)),
        plain_loads=pick.plain_loads,
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
        mapping = forward_mapping(gpu, first, source)
        tiling = Tiling(first.tile_m, first.tile_n)
        (kernel,) = flash2.kernels(problem, tiling, mapping)
        return (replace(kernel, grid=("q", "head", "batch")),)

    def backward() -> tuple[Kernel, ...]:
        return two_pass.kernels(
            problem,
            Tiling(keys.tile_m, keys.tile_n),
            key_mapping(gpu, keys, source),
            Tiling(queries.tile_m, queries.tile_n),
            query_mapping(gpu, queries, source),
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
