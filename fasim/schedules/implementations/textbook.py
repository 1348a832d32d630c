"""The schedules as their papers and textbooks have them, with tiles that suit a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules import flash1, flash2, standard
from fasim.schedules.implementations import cublas, flash_attn_2, pytorch
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Entry, Options, Plan, check_forward, warps_for
from fasim.schedules.tiling import Tiling

if TYPE_CHECKING:
    from fasim.hardware import Gpu


def _standard(problem: Attention, gpu: Gpu, options: Options) -> Plan:
    gemm = cublas.gemm(gpu, problem.dtype, options.tile or cublas.usual_tile(problem, gpu))
    warps, rows_per_block = pytorch.softmax_block(problem.seqlen_k)
    rows = Mapping(warps, matrix_unit="none", copy_unit="registers")
    kernels = standard.kernels(problem, gemm, rows, rows_per_block)
    return Plan("standard", None, kernels, (gemm.tile_m, gemm.tile_n))


def _flash1(problem: Attention, gpu: Gpu, options: Options) -> Plan:
    tile = options.tile
    if tile is None:
        elements = gpu.shared_memory.max_block_bytes // problem.element_bytes
        tile = flash1.paper_tile(elements, problem.head_dim)
    mapping = Mapping(
        warps=warps_for(tile, problem.head_dim, "flash1", options.warps),
        buffers=(("Q", 1), ("K", 1), ("V", 1), ("O", 1)),
        wait_before=(("V", "O"),),
        operands_in_registers=("O",),
    )
    return Plan("flash1", None, flash1.kernels(problem, Tiling(*tile), mapping), tile)


def _flash2(problem: Attention, gpu: Gpu, options: Options) -> Plan:
    tile = options.tile
    if tile is None:
        compiled = flash_attn_2.kernel_head_dim(problem.head_dim)
        if compiled is None:
            tile = (64, 64)
        else:
            tile = flash_attn_2.tile_of(gpu, compiled, problem.causal)[:2]
    warps = warps_for(tile, problem.head_dim, "flash2", options.warps)
    mapping = flash_attn_2.mapping(warps, options.stages or 1)
    kernels = flash2.kernels(problem, Tiling(*tile, descending=True), mapping)
    return Plan("flash2", None, kernels, tile)


ENTRIES = (
    Entry(
        name="standard",
        schedule="standard",
        title="three kernels, S and P in global memory",
        source="textbook attention; eight matrix accesses",
        needs="device memory for S and P: 2 x batch x heads x seqlen_q x seqlen_k elements",
        build=_standard,
        check=check_forward,
    ),
    Entry(
        name="flash1",
        schedule="flash1",
        title="FlashAttention-1: outer loop over K/V, O re-read and re-written",
        source="Dao et al. 2022, Algorithm 1",
        needs="shared memory for a tile of Q, K, V and O; a block a head",
        build=_flash1,
        check=check_forward,
        takes=("tile", "warps"),
    ),
    Entry(
        name="flash2",
        schedule="flash2",
        title="FlashAttention-2: outer loop over Q, O written once",
        source="Dao 2023, Algorithm 1",
        needs="shared memory for a tile of Q, K and V; a block a row tile",
        build=_flash2,
        check=check_forward,
        takes=("tile", "warps", "stages"),
    ),
)
