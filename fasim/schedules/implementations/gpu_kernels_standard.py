"""Standard attention of `gpu_kernels`: one GEMM in Triton for every product, softmax between.

The chain of schedule `standard`, with the tile of cuBLAS's usual GEMM and whole rows of scores a
block of softmax and of dropout.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fasim.problem import DTYPE_BYTES, Attention, Dtype
from fasim.schedules import standard, standard_backward
from fasim.schedules.implementations import cublas, pytorch
from fasim.schedules.implementations.gpu_kernels import SOURCE
from fasim.schedules.implementations.triton import buffers, check, matrix_unit
from fasim.schedules.language import Kernel
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Entry, Options, Plan, chain_of
from fasim.schedules.standard import Gemm

if TYPE_CHECKING:
    from fasim.hardware import Gpu

TILE = cublas.TILES[0]
WARPGROUP_ROWS = 64  # of a product, that a wgmma multiplies


def step(architecture: str, dtype: Dtype) -> int:
    """Elements of the contracted side that a main-loop step takes, as cuBLAS's."""
    return cublas.step(architecture == "sm_90", DTYPE_BYTES[dtype])


def stages(architecture: str) -> int:
    """Of the main loop."""
    return 4 if architecture == "sm_90" else 3


def warps(columns: int) -> int:
    """Of a product whose tile is so wide."""
    return 4 if columns <= 64 else 8


def _gemm(problem: Attention, gpu: Gpu, options: Options) -> Gemm:
    tile_m, tile_n = options.tile or TILE
    from_shared = tile_m % WARPGROUP_ROWS == 0
    unit = matrix_unit(gpu) if from_shared else "mma.sync"
    return Gemm(
        tile_m,
        tile_n,
        step(gpu.architecture, problem.dtype),
        buffers(gpu, stages(gpu.architecture), from_shared=from_shared),
        Mapping(warps(tile_n), matrix_unit=unit, source=SOURCE),
    )


def _launched(kernel: Kernel) -> Kernel:
    """With the warps of its own columns: a product as wide as a head is narrower than the tile."""
    mapping = kernel.mapping
    if mapping.matrix_unit == "none":
        return kernel
    _, columns, *_ = kernel.grid
    count = warps(kernel.tiles[columns])
    grid = None if mapping.matrix_unit == "wgmma" else (count // 2, 2)
    return replace(kernel, mapping=replace(mapping, warps=count, warp_grid=grid))


def _build(problem: Attention, gpu: Gpu, options: Options) -> Plan:
    gemm = _gemm(problem, gpu, options)
    row_warps, rows_per_block = pytorch.softmax_block(problem.seqlen_k)
    rows = Mapping(row_warps, matrix_unit="none", copy_unit="registers", source=SOURCE)
    chain = chain_of(
        problem,
        lambda: standard.kernels(problem, gemm, rows, rows_per_block),
        lambda: standard_backward.kernels(problem, gemm, rows, rows_per_block),
    )
    kernels = tuple(_launched(kernel) for kernel in chain)
    return Plan("standard", ENTRY.name, kernels, (gemm.tile_m, gemm.tile_n))


ENTRY = Entry(
    name="gpu-kernels-standard",
    schedule="standard",
    title="fasim's own standard attention in Triton: S and P in global memory",
    source=SOURCE,
    needs="fp16 or bf16, head_dim 16, 32, 64 or 128; device memory for S and P",
    build=_build,
    check=check,
    features=("dropout",),
)
