"""Tiles of cuBLAS's half-precision batched GEMMs, as their kernel names state them.

Source: names in public traces: `ampere_fp16_s16816gemm_fp16_128x128_ldg8_f2f_stages_32x5`,
`sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasim.problem import DTYPE_BYTES, TENSOR_DTYPE, Attention
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Tile
from fasim.schedules.standard import Gemm

if TYPE_CHECKING:
    from fasim.hardware import Gpu

SOURCE = "cuBLAS kernel names in public traces"


# Tiles in the names of Hopper's kernels, the most usual first; 128 × 128 before Hopper.
TILES = ((128, 128), (128, 256), (256, 128), (64, 128))


def usual_tile(problem: Attention, gpu: Gpu) -> Tile:
    """The tile of QKᵀ, the larger of the two products in time; the library's choice is closed.

    Least of max(1, blocks / SMs) · (max(tensor, operands) + output): cycles of a block's
    multiplications, of its operands through the SM's port to L2, and of the tile of S on its way
    out, which nothing overlaps. The most usual of equals. Only with wgmma do the operands take
    longer than the multiplications, so that a larger tile pays.
    """
    if "wgmma" not in gpu.features:
        return TILES[0]
    rate = gpu.tensor_core.flops_per_clock[TENSOR_DTYPE[problem.dtype]]
    assert rate is not None  # the catalogue refuses dtypes without tensor cores
    depth, element_bytes = problem.head_dim, problem.element_bytes

    def cycles(tile: Tile) -> float:
        rows, columns = tile
        blocks = -(-problem.seqlen_q // rows) * -(-problem.seqlen_k // columns)
        blocks *= problem.batch * problem.heads
        tensor = 2 * rows * columns * depth / rate
        operands = (rows + columns) * depth * element_bytes / gpu.l2.read_bytes_per_clock_per_sm
        output = rows * columns * element_bytes / gpu.l2.write_bytes_per_clock_per_sm
        return max(1.0, blocks / gpu.sm_count) * (max(tensor, operands) + output)

    # Sums that differ in their last bits are equal.
    return min(TILES, key=lambda tile: float(f"{cycles(tile):.9g}"))


def step(wgmma: bool, element_bytes: int) -> int:
    """Elements of the contracted side that a main-loop step takes: 128 bytes on Hopper, else 64."""
    return (128 if wgmma else 64) // element_bytes


def gemm(gpu: Gpu, dtype: str, tile: Tile | None = None) -> Gemm:
    """The GEMM of an architecture: wgmma fed by TMA on Hopper, else mma.sync and cp.async.

    Stages are as many as the kernel's name says, fewer where a block's shared memory ends.
    """
    tile_m, tile_n = tile or (128, 128)
    element_bytes = DTYPE_BYTES[dtype]
    if "wgmma" in gpu.features and tile_m % 64 == 0:
        k_step, stages = step(True, element_bytes), 4
        mapping = Mapping(tile_m // 64 * 4, "wgmma", "tma", source=SOURCE)
    else:
        k_step, stages = step(False, element_bytes), 5
        warps = 8 if tile_m * tile_n > 128 * 128 else 4
        grid = (warps // 2, 2)
        mapping = Mapping(warps, "mma.sync", "cp.async", warp_grid=grid, source=SOURCE)
    stage_bytes = (tile_m + tile_n) * k_step * element_bytes
    # Two blocks an SM hide each other's prologue and epilogue: cuBLAS trades stages for them.
    room = gpu.shared_memory.capacity_bytes // 2 - gpu.shared_memory.reserved_block_bytes
    stages = max(2, min(stages, room // stage_bytes))
    return Gemm(tile_m, tile_n, k_step, stages, mapping)


def sgemm() -> Gemm:
    """`ampere_sgemm_128x128`, FP32 lanes: every fp32 batched product in public A100 traces.

    Its step and stages are not in its name: 8 of the contracted side, four stages, are assumed.
    """
    mapping = Mapping(8, "ffma", "cp.async", warp_grid=(2, 4), source=SOURCE)
    return Gemm(128, 128, k_step=8, stages=4, mapping=mapping)
