"""The schedules as their papers and textbooks have them, with tiles that suit a GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules import (
    flash1,
    flash1_backward,
    flash2,
    flash2_backward,
    split_kv,
    standard,
    standard_backward,
)
from fasim.schedules.implementations import (
    cublas,
    flash_attn_2,
    flash_attn_2_backward,
    flash_attn_2_split,
    pytorch,
)
from fasim.schedules.language import Kernel
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import (
    Entry,
    Options,
    Plan,
    Tile,
    backward_tile,
    chain_of,
    check_dtype,
    check_forward,
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
        tile = flash_attn_2.tile_of(gpu, compiled, problem.causal, problem.dropout > 0)[:2]
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


def _decode(problem: Attention, _: Gpu, options: Options) -> Plan:
    return _over_keys("decode", problem, options, num_splits=1)


def _split_kv(problem: Attention, gpu: Gpu, options: Options) -> Plan:
    wanted = options.num_splits
    if wanted is None:
        rows, columns = _split_tile(problem, options)
        wanted = flash_attn_2_split.split(
            problem, gpu, columns, rows, options.pack_gqa is not False
        ).num_splits
    plan = _over_keys("split_kv", problem, options, wanted)
    return replace(plan, assumptions=(split_kv.splits_said(wanted, options.num_splits is None),))


def _split_tile(problem: Attention, options: Options) -> Tile:
    columns = flash_attn_2_split.tile_n(problem.head_dim)
    return options.tile or (flash_attn_2_split.TILE_M, columns)


def _over_keys(name: str, problem: Attention, options: Options, num_splits: int) -> Plan:
    """Packed unless asked otherwise: a group's query heads read K and V once."""
    tile = _split_tile(problem, options)
    tiling = Tiling(
        *tile,
        descending=True,
        num_splits=num_splits,
        pack_gqa=options.pack_gqa is not False,
        page_size=options.page_size or 0,
    )
    mapping = flash_attn_2.mapping(warps_for(tile, problem.head_dim))
    rows = flash_attn_2_split.combine_rows(problem.head_dim)
    return Plan(name, None, split_kv.kernels(problem, tiling, mapping, rows), tile)


ENTRIES = (
    Entry(
        name="standard",
        schedule="standard",
        title="three kernels, S and P in global memory; backward five, from the P that was saved",
        source="textbook attention; eight matrix accesses",
        needs="device memory for S and P: 2 x batch x heads x seqlen_q x seqlen_k elements",
        build=_standard,
        check=check_dtype,
        features=("dropout", "window"),
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
        features=("dropout", "window"),
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
        features=("dropout", "window"),
    ),
    Entry(
        name="decode",
        schedule="decode",
        title="a block a batch and key/value head, over all keys",
        source="Dao 2023, Algorithm 1; a row tile holds the queries of a group of heads",
        needs="shared memory for a tile of Q, K and V; many sequences to fill the GPU",
        build=_decode,
        check=check_forward,
        takes=("tile", "pack_gqa", "page_size"),
        features=("window",),
        decodes=True,
    ),
    Entry(
        name="split_kv",
        schedule="split_kv",
        title="Flash-Decoding: the keys of a head dealt to several blocks, then combined",
        source="Dao, Haziza, Massa, Sizov 2023, Flash-Decoding for long-context inference",
        needs="as decode; device memory for an FP32 O and LSE a split",
        build=_split_kv,
        check=check_forward,
        takes=("tile", "num_splits", "pack_gqa", "page_size"),
        features=("window",),
        decodes=True,
    ),
)
