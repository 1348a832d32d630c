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
from fasim.schedules.implementations import pytorch
from fasim.schedules.language import Kernel
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Options
from fasim.schedules.tiling import Tiling

if TYPE_CHECKING:
    from fasim.hardware import Gpu

SOURCE = "Dao-AILab/flash-attention v2.8.3, flash_fwd_launch_template.h and flash_api.cpp"
Q_ROWS, O_ROWS = "Q_rows", "O_rows"  # copies, in the order of folded rows
TILE_M = 64
WARPS = 4
MAX_SPLITS = 128
BLOCKS_PER_SM = 2  # that the heuristic counts on
FULL_ENOUGH = 0.8  # of the GPU's block slots: no split beyond
EFFICIENT_ENOUGH = 0.85  # of the best split's efficiency

# vLLM's reshape_and_cache_flash_kernel for 16-bit tensors, as compiled for sm_80 in vLLM 0.14.0.
CACHE_WRITE_WARPS = 16  # of a block, at most
CACHE_WRITE_VECTOR = 8  # elements that a thread moves at a time
CACHE_WRITE_REGISTERS = 54
# Of a warp with nothing to move: the slot, two divisions by the page size, addresses in 64 bits.
CACHE_WRITE_IDLE_INSTRUCTIONS = 114
CACHE_WRITE_INSTRUCTIONS = 222  # of one that moves a vector of K and one of V
CACHE_WRITE_PASS_INSTRUCTIONS = 28  # of each further vector of both
CACHE_WRITE_CYCLES = 844  # of those 222, issued by a warp alone


def cache_write(problem: Attention) -> Mapping:
    """vLLM's reshape_and_cache_flash: a block a token, and a thread an element.

    A block first looks up the token's slot. Threads move 16 bytes each, so that most have nothing
    to do; they issue half of the instructions all the same, and take up registers: few tokens
    are under way at a time. A thread with several vectors waits for each before it loads the next.
    """
    elements = problem.kv_heads * problem.head_dim
    vectors = -(-elements // CACHE_WRITE_VECTOR)
    warps = min(-(-elements // 32), CACHE_WRITE_WARPS)
    moving = min(-(-vectors // 32), warps)
    passes = -(-vectors // (32 * warps))
    instructions = (warps - moving) * CACHE_WRITE_IDLE_INSTRUCTIONS + moving * (
        CACHE_WRITE_INSTRUCTIONS + (passes - 1) * CACHE_WRITE_PASS_INSTRUCTIONS
    )
    return Mapping(
        warps=warps,
        matrix_unit="none",
        copy_unit="registers",
        registers_per_thread=CACHE_WRITE_REGISTERS,
        instructions_per_element=32 * instructions / elements,
        start_cycles=CACHE_WRITE_CYCLES,
        lookups=1 + 2 * (passes - 1),
        source="vLLM 0.14.0, csrc/cache_kernels.cu, as compiled for sm_80",
    )


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


def copies_rows(problem: Attention, packed: bool, options: Options) -> bool:
    """Whether Q is copied into rows of folded heads, and O back, by kernels of their own.

    A server calls `mha_varlen_fwd`, which takes sequences end to end: it reshapes Q from
    (batch, kv_heads, group, d) to (batch · group, kv_heads, d), no view of Q unless there is one
    sequence or one key/value head. O has to go into the caller's tensor the same way back.
    """
    serving = options.page_size is not None and options.writes_kv is True
    return serving and packed and problem.seqlen_q == 1 and min(problem.batch, problem.kv_heads) > 1


def kernels(
    problem: Attention,
    tiling: Tiling,
    mapping: Mapping,
    compiled: int = 0,
    *,
    copied: bool = False,
) -> tuple[Kernel, ...]:
    """The chain of a call with this tiling, in a kernel compiled for a head dimension.

    Args:
        copied: whether the folded rows of Q and of O are copies.
    """
    rows = combine_rows(max(compiled, problem.head_dim))
    if not copied:
        return split_kv.kernels(problem, tiling, mapping, rows, compiled)
    return (
        _copy_rows(problem, "Q", Q_ROWS),
        *split_kv.kernels(problem, tiling, mapping, rows, compiled, Q_ROWS, O_ROWS),
        _copy_rows(problem, O_ROWS, "O"),
    )


def _copy_rows(problem: Attention, source: str, target: str) -> Kernel:
    """read one tensor; write it with the rows of a folded group in another order.

    Folding is the layout's here: the values of a row are the same on both sides.
    """
    kernel = pytorch.copy_kernel(problem, source, target, ("batch", "kv_head", "q", "d"))
    return replace(
        kernel,
        lengths={**kernel.lengths, "q": problem.group},
        tiles={"q": pytorch.rows_of_block(problem.group, problem.head_dim)},
        group=problem.group,
    )
