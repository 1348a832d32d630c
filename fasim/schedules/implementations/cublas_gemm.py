"""The kernels that cuBLAS has to choose from for one matrix product.

Its choice is closed: what runs is taken to be the best of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from fasim.schedules.implementations import cublas
from fasim.schedules.mapping import Mapping
from fasim.schedules.standard import Gemm

if TYPE_CHECKING:
    from fasim.hardware import Gpu
    from fasim.operators import Operator

# Tiles in the names of its kernels, and the bytes of the contracted side a step takes: mma.sync
# (`s16816gemm_…_128x128_ldg8_f2f_stages_32x5`, `…_64x3`: elements of two bytes) and wgmma.
TILES = (
    (256, 128),
    (128, 256),
    (128, 128),
    (256, 64),
    (64, 256),
    (128, 64),
    (64, 128),
    (64, 64),
    (32, 128),
)
STEP_BYTES = {"mma.sync": (64, 128), "wgmma": (128,)}
# Buffers of each operand: five in the names at most; four of a wgmma kernel's fill an SM.
MOST_STAGES = 4
MOST_SPLITS = 8
# Splitting pays while the grid leaves SMs empty; beyond two blocks an SM its sums only cost.
SPLIT_BLOCKS_PER_SM = 2
LEAST_SPLIT_STEPS = 4  # as many as fill the buffers
ALIGNED_BYTES = 16  # of a row: what cp.async copies at most, and TMA asks for


def alignment_bytes(operator: Operator) -> int:
    """What the rows of A, B and C start at multiples of, 16 at most."""
    rows = (operator.depth, operator.columns)
    aligned = ALIGNED_BYTES
    while any(row * operator.element_bytes % aligned for row in rows):
        aligned //= 2
    return aligned


def candidates(operator: Operator, gpu: Gpu) -> Iterator[tuple[Gemm, int]]:
    """Kernels and the parts into which they split the contracted side."""
    for gemm in _kernels(operator, gpu):
        tiles = -(-operator.rows // gemm.tile_m) * -(-operator.columns // gemm.tile_n)
        blocks = tiles * operator.batch
        steps = -(-operator.depth // gemm.k_step)
        yield gemm, 1
        for splits in range(2, MOST_SPLITS + 1):
            fills = blocks * splits <= SPLIT_BLOCKS_PER_SM * gpu.sm_count
            if fills and steps >= splits * LEAST_SPLIT_STEPS:
                yield gemm, splits


def _kernels(operator: Operator, gpu: Gpu) -> Iterator[Gemm]:
    if operator.dtype == "fp32":
        yield cublas.sgemm()
        return
    aligned = alignment_bytes(operator)
    unit = "mma.sync"
    if "wgmma" in gpu.features and aligned == ALIGNED_BYTES:
        unit = "wgmma"  # its operands come by TMA, which takes no other rows
    for tile, step_bytes in product(TILES, STEP_BYTES[unit]):
        if unit == "wgmma" and tile[0] % 64:
            continue
        mapping = _wgmma(tile) if unit == "wgmma" else _mma_sync(tile)
        mapping = replace(mapping, copy_bytes=aligned)
        k_step = step_bytes // operator.element_bytes
        stage_bytes = sum(tile) * step_bytes
        stages = min(MOST_STAGES, gpu.shared_memory.max_block_bytes // stage_bytes)
        # Two blocks an SM hide each other's prologue and epilogue, where their stages leave room.
        shared = gpu.shared_memory.capacity_bytes // 2 - gpu.shared_memory.reserved_block_bytes
        for number in {stages, min(stages, shared // stage_bytes)}:
            if number >= 2:
                yield Gemm(*tile, k_step, number, mapping)


def _wgmma(tile: tuple[int, int]) -> Mapping:
    """Two warpgroups share a tile of 128 rows or more, one takes a smaller."""
    warps = 8 if tile[0] >= 128 else 4
    return Mapping(warps, "wgmma", "tma", source=cublas.SOURCE)


def _mma_sync(tile: tuple[int, int]) -> Mapping:
    """Warps over rows and columns so that each reads the fewest fragments."""
    warps = 8 if tile[0] * tile[1] > 128 * 128 else 4
    grids = [(down, warps // down) for down in (1, 2, 4, 8) if warps % down == 0]
    grid = min(grids, key=lambda each: tile[0] / each[0] + tile[1] / each[1])
    return Mapping(warps, "mma.sync", "cp.async", warp_grid=grid, source=cublas.SOURCE)
