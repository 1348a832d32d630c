"""The `flash-attn-2` package: its forward tiles and mapping.

Source: Dao-AILab/flash-attention, csrc/flash_attn/src/flash_fwd_launch_template.h; the table
did not change from v2.0.0 to v2.8.3 for the head dimensions listed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules import flash2, flash2_backward, split_kv
from fasim.schedules.implementations import flash_attn_2_backward, vllm
from fasim.schedules.implementations import flash_attn_2_split as split_path
from fasim.schedules.implementations.ptxas import guards_fragments
from fasim.schedules.language import Kernel
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import (
    Entry,
    Options,
    Plan,
    Refused,
    backward_tile,
    chain_of,
    check_dtype,
    flag,
    listed,
    warps_for,
)
from fasim.schedules.split_kv import PLAIN
from fasim.schedules.tiling import Tiling

if TYPE_CHECKING:
    from fasim.hardware import Gpu

SOURCE = "Dao-AILab/flash-attention v2.8.3, flash_fwd_launch_template.h"
CUDA = (12, 1)  # what compiled it when most of it was measured: 11.8 for 2.0.8, 12.1 for 2.5.7
HEAD_DIMS = (32, 64, 96, 128, 192, 256)
DTYPES = ("fp16", "bf16")
SPLIT_OPTIONS = ("num_splits", "pack_gqa", "page_size", "writes_kv")

# (tile_m, tile_n, warps) without dropout. sm_80 and sm_90 run the same code; sm_86 and sm_89
# have less shared memory and a table of their own.
_LARGE = {
    32: (128, 128, 4),
    64: (128, 128, 4),
    96: (128, 64, 4),
    128: (128, 64, 4),
    192: (128, 64, 8),
    256: (64, 64, 4),
}
_SMALL_CAUSAL = {96: (64, 64, 4), 128: (64, 64, 4)}
_SMALL = {128: (128, 32, 4)}
# With dropout, on every architecture, where it changes the tile.
_DROPOUT = {64: (128, 64, 4), 128: (128, 32, 4), 192: (64, 64, 4)}


def kernel_head_dim(head_dim: int) -> int | None:
    """The compiled head dimension that runs `head_dim`; None if it is too large."""
    return next((d for d in HEAD_DIMS if head_dim <= d), None)


def tile_of(gpu: Gpu, head_dim: int, causal: bool, dropout: bool = False) -> tuple[int, int, int]:
    """(tile_m, tile_n, warps) for a compiled head dimension.

    Raises:
        KeyError: `head_dim` is none of HEAD_DIMS.
    """
    table = dict(_LARGE)
    if gpu.architecture in ("sm_86", "sm_89"):
        table |= _SMALL
        if causal:
            table |= _SMALL_CAUSAL
    if dropout:
        table |= _DROPOUT
    if head_dim == 256 and _one_large_block(gpu):
        return 128, 64, 8
    return table[head_dim]


def _one_large_block(gpu: Gpu) -> bool:
    """Whether head_dim 256 takes 128 × 64: it fits, and two blocks of 64 × 64 do not (A100)."""
    large, small = 2 * 256 * (128 + 2 * 64), 2 * 256 * (64 + 2 * 64)
    memory = gpu.shared_memory
    return memory.max_block_bytes >= large and memory.capacity_bytes < 2 * small


def mapping(warps: int, stages: int = 1, q: str = "Q", *, guarded: bool = False) -> Mapping:
    """Four or eight warps, one buffer each for Q, K and V, no deeper pipeline.

    Per step: wait for K, barrier, issue V; S = QKᵀ; wait for V, barrier, issue the next K;
    softmax; O += PV with P in registers.

    Args:
        guarded: `Mapping.guarded_fragments`.
    """
    return Mapping(
        warps=warps,
        matrix_unit="mma.sync",
        copy_unit="cp.async",
        buffers=((q, 1), ("K", stages), ("V", stages)),
        wait_before=(("K", "S"), ("V", "row_max")),
        operands_in_registers=("O",),
        guarded_fragments=guarded,
        source=SOURCE,
    )


def _build(problem: Attention, gpu: Gpu, options: Options) -> Plan:
    """The plain kernel, or the split-KV path where the package takes it.

    It does for a paged cache (`flash_attn_with_kvcache`), and for any call whose grid would leave
    a fifth of the GPU's block slots empty, where the heuristic finds splits that help. With one
    query, the heads of a group become rows before that is decided.
    """
    compiled = kernel_head_dim(problem.head_dim)
    assert compiled is not None  # checked before
    if problem.direction == "forward":
        return _forward(problem, gpu, options, compiled)
    tile_m, tile_n, warps = tile_of(gpu, compiled, problem.causal, problem.dropout > 0)
    backward_kernel = flash_attn_2_backward.kernel_of(gpu, compiled)
    tile, back = options.tile or (tile_m, tile_n), options.tile or backward_kernel.tile
    asked = options.tile is not None or options.warps is not None
    guarded = guards_fragments(gpu, CUDA)

    def forward() -> tuple[Kernel, ...]:
        chosen = warps_for(tile, compiled, "flash-attn-2", options.warps) if asked else warps
        mapped = mapping(chosen, guarded=guarded)
        return flash2.kernels(problem, Tiling(*tile, descending=True), mapped, compiled)

    def backward() -> tuple[Kernel, ...]:
        mapped = flash_attn_2_backward.mapping(backward_kernel)
        if asked:
            mapped = flash_attn_2_backward.mapping_for(back, compiled, options.warps)
        mapped = replace(mapped, guarded_fragments=guarded)
        return flash2_backward.kernels(problem, Tiling(*back, descending=True), mapped, compiled)

    kernels = chain_of(problem, forward, backward)
    assumptions = backward_tile(problem, tile, back)
    if compiled != problem.head_dim:
        padded = f"head_dim {problem.head_dim} runs in the kernel compiled for {compiled}"
        assumptions = (padded, *assumptions)
    shown = back if problem.direction == "backward" else tile
    return Plan("flash2", "flash-attn-2", kernels, shown, assumptions)


def _forward(problem: Attention, gpu: Gpu, options: Options, compiled: int) -> Plan:
    """The plain kernel, or the split-KV path where the package takes it.

    It does for a paged cache (`flash_attn_with_kvcache`), and for any call whose grid would leave
    a fifth of the GPU's block slots empty, where the heuristic finds splits that help. With one
    query, the heads of a group become rows before that is decided.
    """
    rows, columns = options.tile or (split_path.TILE_M, split_path.tile_n(compiled))
    folds = False if problem.window and options.pack_gqa is None else options.pack_gqa
    chosen = split_path.split(problem, gpu, columns, rows, folds)
    if problem.dropout:  # the split kernel has none, and heads are not folded
        chosen = split_path.Split(1, False)
        asked = [name for name in SPLIT_OPTIONS if name in options.given]
        if asked:
            raise Refused(
                "flash-attn-2", f"{flag(asked[0])} with dropout: its split kernel has none"
            )
    served = vllm.calls(options)
    if served and not vllm.folds(problem, chosen.pack_gqa):
        chosen = split_path.Split(1, chosen.pack_gqa)
    splits = options.num_splits or chosen.num_splits
    split_kernel = splits > 1 or options.page_size is not None
    said: list[str] = []
    warps = split_path.WARPS
    if split_kernel:
        said.append(split_kv.splits_said(splits, options.num_splits is None))
    else:
        rows, columns, warps = tile_of(gpu, compiled, problem.causal, problem.dropout > 0)
    if options.tile is not None or options.warps is not None:
        rows, columns = options.tile or (rows, columns)
        warps = warps_for((rows, columns), compiled, "flash-attn-2", options.warps)
    if chosen.pack_gqa:
        said.append(f"the {problem.group} query heads of a group are rows of one tile")
    if compiled != problem.head_dim:
        said.append(f"head_dim {problem.head_dim} runs in the kernel compiled for {compiled}")
    tiling = Tiling(rows, columns, True, splits, chosen.pack_gqa, options.page_size or 0)
    if split_kernel or chosen.pack_gqa:
        schedule = "split_kv" if splits > 1 else "decode"
        names = vllm.names(problem, tiling) if served else PLAIN
        said.extend(vllm.said(names))
        build = vllm.kernels if served else split_path.kernels
        cuda = vllm.CUDA if served else CUDA
        mapped = mapping(warps, q=names.q, guarded=guards_fragments(gpu, cuda))
        kernels = build(problem, tiling, mapped, compiled)
    else:
        schedule = "flash2"
        mapped = mapping(warps, guarded=guards_fragments(gpu, CUDA))
        kernels = flash2.kernels(problem, tiling, mapped, compiled)
    if options.writes_kv and not served:
        kernels = (split_kv.write_kernel(problem, vllm.cache_write(problem)), *kernels)
    return Plan(schedule, "flash-attn-2", kernels, (rows, columns), tuple(said))


def _check(problem: Attention, gpu: Gpu) -> str | None:
    if problem.dtype not in DTYPES:
        return f"it takes {listed(DTYPES)}, not {problem.dtype}"
    if kernel_head_dim(problem.head_dim) is None:
        return f"it takes head_dim up to {HEAD_DIMS[-1]}, not {problem.head_dim}"
    if problem.dropout and problem.direction != "forward" and _lacks_dropout(problem, gpu):
        return f"its backward of head_dim {problem.head_dim} on {gpu.name} has no dropout"
    return check_dtype(problem, gpu)


def _lacks_dropout(problem: Attention, gpu: Gpu) -> bool:
    """Whether only the kernel compiled without dropout fits: 64 × 32 of head_dim 256."""
    compiled = kernel_head_dim(problem.head_dim)
    return compiled == 256 and flash_attn_2_backward.kernel_of(gpu, compiled).tile == (64, 32)


ENTRY = Entry(
    name="flash-attn-2",
    schedule="flash2",
    title="the flash-attn package, versions 2.x",
    source=SOURCE,
    needs="fp16 or bf16, head_dim up to 256",
    build=_build,
    check=_check,
    takes=("tile", "warps", *SPLIT_OPTIONS),
    features=("dropout", "window"),
)
