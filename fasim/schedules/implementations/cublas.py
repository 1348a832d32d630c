"""Tiles of cuBLAS's half-precision batched GEMMs, as their kernel names state them.

Source: names in public traces: `ampere_fp16_s16816gemm_fp16_128x128_ldg8_f2f_stages_32x5`,
`sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasim.problem import DTYPE_BYTES
from fasim.schedules.mapping import Mapping
from fasim.schedules.standard import Gemm

if TYPE_CHECKING:
    from fasim.hardware import Gpu

SOURCE = "cuBLAS kernel names in public traces"


def gemm(gpu: Gpu, dtype: str, tile: tuple[int, int] | None = None) -> Gemm:
    """The GEMM of an architecture: wgmma fed by TMA on Hopper, else mma.sync and cp.async.

    Stages are as many as the kernel's name says, fewer where a block's shared memory ends.
    """
    tile_m, tile_n = tile or (128, 128)
    element_bytes = DTYPE_BYTES[dtype]
    if "wgmma" in gpu.features and tile_m % 64 == 0:
        k_step, stages = 128 // element_bytes, 4
        mapping = Mapping(tile_m // 64 * 4, "wgmma", "tma", source=SOURCE)
    else:
        k_step, stages = 64 // element_bytes, 5
        warps = 8 if tile_m * tile_n > 128 * 128 else 4
        grid = (warps // 2, 2)
        mapping = Mapping(warps, "mma.sync", "cp.async", warp_grid=grid, source=SOURCE)
    stage_bytes = (tile_m + tile_n) * k_step * element_bytes
    # Two blocks an SM hide each other's prologue and epilogue: cuBLAS trades stages for them.
    room = gpu.shared_memory.capacity_bytes // 2 - gpu.shared_memory.reserved_block_bytes
    stages = max(2, min(stages, room // stage_bytes))
    return Gemm(tile_m, tile_n, k_step, stages, mapping)
