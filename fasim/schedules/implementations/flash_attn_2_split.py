"""FlashAttention-2's split-KV path: tiles, and into how many splits it deals the keys.

Source: Dao-AILab/flash-attention v2.8.3, flash_fwd_launch_template.h
(`run_mha_fwd_splitkv_dispatch`, `run_flash_splitkv_fwd`) and flash_api.cpp
(`num_splits_heuristic`, `set_params_splitkv`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules import split_kv
from fasim.schedules.language import Kernel
from fasim.schedules.mapping import Mapping
from fasim.schedules.split_kv import PLAIN, Names
from fasim.schedules.tiling import Tiling

if TYPE_CHECKING:
    from fasim.hardware import Gpu

SOURCE = "Dao-AILab/flash-attention v2.8.3, flash_fwd_launch_template.h and flash_api.cpp"
TILE_M = 64
WARPS = 4
MAX_SPLITS = 128
BLOCKS_PER_SM = 2  # that the heuristic counts on
FULL_ENOUGH = 0.8  # of the GPU's block slots: no split beyond
EFFICIENT_ENOUGH = 0.85  # of the best split's efficiency

# As the kernels of head dimension 128 for bf16 are compiled for sm_80 in vLLM 0.14.0: how long a
# warp alone issues, by the stalls in the machine code; 20 cycles for a result of the unit that
# converts and inverts, 12 for one that moves to the uniform registers.
COMPILED_SOURCE = "flash-attention's split-KV kernels, as compiled for sm_80 in vLLM 0.14.0"
# flash_fwd_splitkv_kernel, tile 64 x 128, paged, up to its first copy: two divisions and addresses
# in 64 bits; a split block divides its way to its keys besides.
START_CYCLES, START_CYCLES_CAUSAL, START_CYCLES_SPLIT = 909, 936, 1231
# Of an iteration of its loop besides the softmax: K and V are looked up in the page table apart, a
# division and some thirty instructions for addresses each.
LOOP_OVERHEAD = (99, 32, 31)
# flash_fwd_splitkv_combine_kernel, its loop over the splits left out. Each thread divides for the
# rows of four layouts; the warp that writes LSE, for those of as many more where LSE is not padded.
COMBINE_CYCLES, COMBINE_CYCLES_UNPADDED = 2429, 3907  # of the warp that writes LSE
COMBINE_INSTRUCTIONS, COMBINE_INSTRUCTIONS_UNPADDED = 540, 852  # likewise
COMBINE_INSTRUCTIONS_OTHERS, COMBINE_INSTRUCTIONS_PER_SPLIT = 530, 10  # of other warps; of all
COMBINE_WARPS = 4
COMBINE_REGISTERS = 54  # 52 to 62, by the number of splits


@dataclass(frozen=True, slots=True)
class Split:
    """What the package decides of a call.

    Attributes:
        num_splits: 1 where splitting does not pay.
        pack_gqa: one query: the query heads of a group become rows, unless there is only one.
    """

    num_splits: int
    pack_gqa: bool


def tile_n(head_dim: int) -> int:
    """Keys a block takes at a time, for a compiled head dimension."""
    return 256 if head_dim <= 64 else 128 if head_dim <= 128 else 64


def num_splits(blocks: int, slots: int, key_tiles: int) -> int:
    """Splits that fill the GPU: the fewest with 0.85 of the efficiency of the best.

    Args:
        blocks: of the kernel without splits: batch × heads × row tiles.
        slots: blocks that the GPU holds at once, two an SM.
        key_tiles: tiles of keys to deal out.
    """
    if blocks >= FULL_ENOUGH * slots:
        return 1
    efficiencies: dict[int, float] = {}
    for splits in range(1, min(MAX_SPLITS, slots, key_tiles) + 1):
        # With as many tiles a split as one split fewer has, the last split would be empty.
        if splits == 1 or -(-key_tiles // splits) != -(-key_tiles // (splits - 1)):
            waves = blocks * splits / slots
            efficiencies[splits] = waves / -(-blocks * splits // slots)
    best = max(efficiencies.values())
    return next(s for s, each in efficiencies.items() if each >= EFFICIENT_ENOUGH * best)


def split(
    problem: Attention,
    gpu: Gpu,
    columns: int,
    rows: int = TILE_M,
    pack_gqa: bool | None = None,
) -> Split:
    """What the package decides for a problem on a GPU.

    Args:
        columns, rows: of the tile.
        pack_gqa: fold the heads of a group into rows or not, instead of for one query only.
    """
    packed = problem.seqlen_q == 1 if pack_gqa is None else pack_gqa
    packed = packed and problem.group > 1
    heads = problem.kv_heads if packed else problem.heads
    queries = problem.seqlen_q * (problem.group if packed else 1)
    blocks = problem.batch * heads * -(-queries // rows)
    key_tiles = -(-problem.seqlen_k // columns)
    return Split(num_splits(blocks, BLOCKS_PER_SM * gpu.sm_count, key_tiles), packed)


def combine_rows(head_dim: int) -> int:
    """Rows a block of the combining kernel takes; here, of one head."""
    return 4 if head_dim % 128 == 0 else 8 if head_dim % 64 == 0 else 16


def as_compiled(mapping: Mapping, problem: Attention, tiling: Tiling) -> Mapping:
    """The first kernel's mapping, with what its machine code does before and in the loop.

    A plain call's heads may be folded without splits: then the kernel is not the split one.
    """
    if tiling.num_splits == 1 and not tiling.page_size:
        return mapping
    start = START_CYCLES_CAUSAL if problem.causal and problem.seqlen_q > 1 else START_CYCLES
    return replace(
        mapping,
        start_cycles=START_CYCLES_SPLIT if tiling.num_splits > 1 else start,
        overhead=LOOP_OVERHEAD if tiling.page_size else None,
    )


def combining(elements: int, splits: int, *, padded: bool = True) -> Mapping:
    """The second kernel: the weights of all splits behind one load, then split after split.

    Args:
        elements: of O that a block makes.
        padded: whether LSE is padded; it is not where sequences lie end to end.
    """
    writing = COMBINE_INSTRUCTIONS if padded else COMBINE_INSTRUCTIONS_UNPADDED
    others = (COMBINE_WARPS - 1) * COMBINE_INSTRUCTIONS_OTHERS
    looping = COMBINE_WARPS * COMBINE_INSTRUCTIONS_PER_SPLIT * splits
    return Mapping(
        warps=COMBINE_WARPS,
        matrix_unit="none",
        copy_unit="registers",
        registers_per_thread=COMBINE_REGISTERS,
        instructions_per_element=32 * (writing + others + looping) / elements,
        start_cycles=COMBINE_CYCLES if padded else COMBINE_CYCLES_UNPADDED,
        lookups=1,
        source=COMPILED_SOURCE,
    )


def kernels(
    problem: Attention,
    tiling: Tiling,
    mapping: Mapping,
    compiled: int = 0,
    names: Names = PLAIN,
    *,
    padded: bool = True,
) -> tuple[Kernel, ...]:
    """The chain of a call with this tiling, in kernels compiled for a head dimension.

    Args:
        names: the tensors of queries and of results.
        padded: whether LSE is padded.
    """
    rows = combine_rows(max(compiled, problem.head_dim))
    second = combining(rows * problem.head_dim, tiling.num_splits, padded=padded)
    first = as_compiled(mapping, problem, tiling)
    return split_kv.kernels(problem, tiling, first, rows, compiled, names, second)
