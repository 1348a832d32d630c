"""The schedules as their papers and textbooks have them, with tiles that suit a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules import (
    flash1,
    flash1_backward,
    flash2,
    flash2_backward,
    standard,
    standard_backward,
)
from fasim.schedules.implementations import (
    cublas,
    flash_attn_2,
    flash_attn_2_backward,
    pytorch,
)
from fasim.schedules.language import Kernel
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import (
    Entry,
    Options,
    Plan,
    backward_tile,
    chain_of,
    check_dtype,
    warps_for,
)
from fasim.schedules.tiling import Tiling

if TYPE_CHECKING:
    from fasim.hardware import Gpu


def _standard(problem: Attention, gpu: Gpu, options: Options) -> Plan:
    gemm = cublas.gemm(gpu, problem.dtype, options.tile or cublas.usual_tile(problem, gpu))
    warps, rows_per_block = pytorch.softmax_block(problem.seqlen_k)
    rows = Mapping(warps, matrix_unit="none", copy_unit="registers")
    kernels = chain_of(
        problem,
        lambda: standard.kernels(problem, gemm, rows, rows_per_block),
        lambda: standard_backward.kernels(problem, gemm, rows, rows_per_block),
    )
    return Plan("standard", None, kernels, (gemm.tile_m, gemm.tile_n))


def _flash1(problem: Attention, gpu: Gpu, options: Options) -> Plan:
    elements = gpu.shared_memory.max_block_bytes // problem.element_bytes
    tile = options.tile or flash1.paper_tile(elements, problem.head_dim)
    back = options.tile or flash1_backward.paper_tile(elements, problem.head_dim)
    mapping = Mapping(
        warps=warps_for(tile, problem.head_dim, "flash1", options.warps),
        buffers=(("Q", 1), ("K", 1), ("V", 1), ("O", 1)),
        wait_before=(("V", "O"),),
        operands_in_registers=("O",),
    )
    back_mapping = flash_attn_2_backward.mapping_for(
        back, problem.head_dim, options.warps
    ).with_buffers(tuple((name, 1) for name in ("Q", "K", "V", "O", "dO", "dQ")))
    kernels = chain_of(
        problem,
        lambda: flash1.kernels(problem, Tiling(*tile), mapping),
        lambda: flash1_backward.kernels(problem, Tiling(*back), back_mapping),
    )
    assumptions = backward_tile(problem, tile, back)
    tile = back if problem.direction == "backward" else tile
    return Plan("flash1", None, kernels, tile, assumptions)


def _flash2(problem: Attention, gpu: Gpu, options: Options) -> Plan:
    compiled = flash_attn_2.kernel_head_dim(problem.head_dim)
    tile, back = (64, 64), (64, 64)
    if options.tile is not None:
        tile = back = options.tile
    elif compiled is not None:
        tile = flash_attn_2.tile_of(gpu, compiled, problem.causal)[:2]
        back = flash_attn_2_backward.kernel_of(gpu, compiled).tile

    def forward() -> tuple[Kernel, ...]:
        warps = warps_for(tile, problem.head_dim, "flash2", options.warps)
        mapping = flash_attn_2.mapping(warps, options.stages or 1)
        return flash2.kernels(problem, Tiling(*tile, descending=True), mapping)

    def backward() -> tuple[Kernel, ...]:
        mapping = flash_attn_2_backward.mapping_for(
            back, problem.head_dim, options.warps, options.stages or 2
        )
        return flash2_backward.kernels(problem, Tiling(*back, descending=True), mapping)

    kernels = chain_of(problem, forward, backward)
    assumptions = backward_tile(problem, tile, back)
    shown = back if problem.direction == "backward" else tile
    return Plan("flash2", None, kernels, shown, assumptions)


ENTRIES = (
    Entry(
        name="standard",
        schedule="standard",
        title="three kernels, S and P in global memory; backward five, from the P that was saved",
        source="textbook attention; eight matrix accesses",
        needs="device memory for S and P: 2 x batch x heads x seqlen_q x seqlen_k elements",
        build=_standard,
        check=check_dtype,
    ),
    Entry(
        name="flash1",
        schedule="flash1",
        title="FlashAttention-1: outer loop over K/V, O re-read and re-written",
        source="Dao et al. 2022, Algorithms 1 and 4",
        needs="shared memory for a tile of Q, K, V and O; a block a head",
        build=_flash1,
        check=check_dtype,
        takes=("tile", "warps"),
    ),
    Entry(
        name="flash2",
        schedule="flash2",
        title="FlashAttention-2: outer loop over Q, O written once",
        source="Dao 2023, Algorithms 1 and 2",
        needs="shared memory for a tile of Q, K and V; a block a row tile",
        build=_flash2,
        check=check_dtype,
        takes=("tile", "warps", "stages"),
    ),
)
