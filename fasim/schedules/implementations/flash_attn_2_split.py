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
from fasim.schedules.language import Kernel, Tensor
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Options
from fasim.schedules.tiling import Tiling

if TYPE_CHECKING:
    from fasim.hardware import Gpu

SOURCE = "Dao-AILab/flash-attention v2.8.3, flash_fwd_launch_template.h and flash_api.cpp"
SERVING = "vLLM 0.14.0, vllm_flash_attn: mha_varlen_fwd as compiled"
Q_ROWS, O_ROWS, LSE_ROWS = "Q_rows", "O_rows", "LSE_rows"  # in the order of folded rows
TILE_M = 64
WARPS = 4
MAX_SPLITS = 128
BLOCKS_PER_SM = 2  # that the heuristic counts on
FULL_ENOUGH = 0.8  # of the GPU's block slots: no split beyond
EFFICIENT_ENOUGH = 0.85  # of the best split's efficiency

# What a warp alone issues from a block's start to its first copy, by the stalls in the machine code
# of flash_fwd_splitkv_kernel (head dimension 128, tile 64 x 128, bf16, paged; sm_80, vLLM 0.14.0):
# divisions of heads and keys, addresses in 64 bits; and to find its range among the splits.
START_CYCLES, START_CYCLES_SPLIT = 909, 1231
START_CYCLES_CAUSAL = 936  # of more than one query
# A server's sequences lie end to end: where one begins is read before its length.
SERVING_LOOKUPS = 1
# Of a block of flash_fwd_splitkv_combine_kernel, likewise, its loop over the splits left out: the
# warp that writes LSE divides for the rows of each of four layouts, and again for all of them
# where LSE is not padded, as a server has it. In cycles; instructions of that warp, of any other.
COMBINE_CYCLES, COMBINE_CYCLES_SERVING = 2429, 3907
COMBINE_INSTRUCTIONS, COMBINE_INSTRUCTIONS_SERVING = 540, 852
COMBINE_INSTRUCTIONS_OTHERS, COMBINE_SPLIT_INSTRUCTIONS = 530, 10
COMBINE_WARPS = 4
COMBINE_REGISTERS = 54  # 52 to 62, by the number of splits

# PyTorch's strided copies, elementwise_kernel<128, 4> of bf16 and <128, 2> of fp32, as compiled for
# sm_80 in 2.9.1, which that vLLM runs on: a thread divides its way to an element, loads and stores
# it, then goes on to the next. O and Q have four dimensions here, LSE three.
COPY_ELEMENTS, COPY_CYCLES, COPY_INSTRUCTIONS = 4, 800, 207  # of a thread
LSE_COPY_ELEMENTS, LSE_COPY_CYCLES, LSE_COPY_INSTRUCTIONS = 2, 354, 89
COPY_SOURCE = "PyTorch 2.9.1, Copy.cu, as compiled for sm_80"

# vLLM's reshape_and_cache_flash_kernel for 16-bit tensors, as compiled for sm_80 in vLLM 0.14.0.
CACHE_WRITE_WARPS = 16  # of a block, at most
CACHE_WRITE_VECTOR = 8  # elements that a thread moves at a time
CACHE_WRITE_REGISTERS = 54
# Of a warp with nothing to move: the slot, two divisions by the page size, addresses in 64 bits.
CACHE_WRITE_IDLE_INSTRUCTIONS = 114
CACHE_WRITE_INSTRUCTIONS = 222  # of one that moves a vector of K and one of V
CACHE_WRITE_PASS_INSTRUCTIONS = 28  # of each further vector of both
CACHE_WRITE_CYCLES = 886  # of those 222, issued by a warp alone


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


def of_server(options: Options) -> bool:
    """Whether a server calls: `mha_varlen_fwd`, over a cache in pages that it has just written.

    It splits keys only where it folds heads into rows.
    """
    return options.page_size is not None and options.writes_kv is True


def serves(problem: Attention, packed: bool, options: Options) -> bool:
    """Whether a server's call folds heads into rows, and leaves results in another's tensors.

    Its kernels leave O, and without splits LSE, in the order of the folded rows. O is then copied
    into the caller's tensor in any case.
    """
    return of_server(options) and packed and problem.seqlen_q == 1


def q_rows(problem: Attention, served: bool) -> str:
    """Q, or its copy with the rows of folded heads in order.

    Sequences lie end to end: Q is reshaped from (batch, kv_heads, group, d) to (batch · group,
    kv_heads, d), no view of Q unless there is one sequence or one key/value head.
    """
    return Q_ROWS if served and min(problem.batch, problem.kv_heads) > 1 else "Q"


def as_compiled(mapping: Mapping, problem: Attention, splits: int, options: Options) -> Mapping:
    """The first kernel's mapping, with what its machine code does before the loop."""
    start = START_CYCLES_CAUSAL if problem.causal and problem.seqlen_q > 1 else START_CYCLES
    return replace(
        mapping,
        start_cycles=START_CYCLES_SPLIT if splits > 1 else start,
        lookups=SERVING_LOOKUPS if of_server(options) else 0,
    )


def combining(elements: int, splits: int, serving: bool) -> Mapping:
    """The combining kernel: all weights first, behind one load; then split after split.

    Args:
        elements: of O that a block makes.
        serving: with LSE not padded.
    """
    first = COMBINE_INSTRUCTIONS_SERVING if serving else COMBINE_INSTRUCTIONS
    others = (COMBINE_WARPS - 1) * COMBINE_INSTRUCTIONS_OTHERS
    looping = COMBINE_WARPS * COMBINE_SPLIT_INSTRUCTIONS * splits
    return Mapping(
        warps=COMBINE_WARPS,
        matrix_unit="none",
        copy_unit="registers",
        registers_per_thread=COMBINE_REGISTERS,
        instructions_per_element=32 * (first + others + looping) / elements,
        start_cycles=COMBINE_CYCLES_SERVING if serving else COMBINE_CYCLES,
        lookups=1,
        source=SERVING,
    )


def kernels(
    problem: Attention,
    tiling: Tiling,
    mapping: Mapping,
    options: Options,
    compiled: int = 0,
) -> tuple[Kernel, ...]:
    """The chain of a call with this tiling, in a kernel compiled for a head dimension."""
    served = serves(problem, tiling.pack_gqa, options)
    rows = combine_rows(max(compiled, problem.head_dim))
    q = q_rows(problem, served)
    lse = LSE_ROWS if q == Q_ROWS and tiling.num_splits == 1 else "LSE"
    chain = split_kv.kernels(
        problem,
        tiling,
        as_compiled(mapping, problem, tiling.num_splits, options),
        split_kv.Combining(
            rows,
            combining(rows * problem.head_dim, tiling.num_splits, of_server(options)),
        ),
        compiled,
        split_kv.Names(q, O_ROWS if served else "O", lse),
    )
    before = (_copy_rows(problem, "Q", Q_ROWS),) if q == Q_ROWS else ()
    after = (_copy_rows(problem, O_ROWS, "O"),) if served else ()
    return (*before, *chain, *after, *((_copy_lse(problem),) if lse == LSE_ROWS else ()))


def _copy_rows(problem: Attention, source: str, target: str) -> Kernel:
    """read one tensor; write it with the rows of a folded group in another order.

    Folding is the layout's here: the values of a row are the same on both sides. Where the order
    is the same too, of one sequence or one key/value head, cudaMemcpyAsync copies.
    """
    kernel = pytorch.copy_kernel(problem, source, target, ("batch", "kv_head", "q", "d"))
    memcpy = Mapping(4, matrix_unit="none", copy_unit="registers", source="cudaMemcpyAsync")
    strided = Mapping(
        warps=4,
        matrix_unit="none",
        copy_unit="registers",
        instructions_per_element=COPY_INSTRUCTIONS / COPY_ELEMENTS,
        start_cycles=COPY_CYCLES,
        lookups=COPY_ELEMENTS - 1,
        source=COPY_SOURCE,
    )
    return replace(
        kernel,
        lengths={**kernel.lengths, "q": problem.group},
        tiles={"q": pytorch.rows_of_block(problem.group, problem.head_dim)},
        group=problem.group,
        mapping=strided if min(problem.batch, problem.kv_heads) > 1 else memcpy,
    )


def _copy_lse(problem: Attention) -> Kernel:
    """read LSE_rows; write LSE, heads before sequences; a block a sequence."""
    axes = ("batch", "kv_head", "q")
    kernel = pytorch.copy_kernel(problem, LSE_ROWS, "LSE", axes)
    return replace(
        kernel,
        program=pytorch.copy_program(LSE_ROWS, "LSE", "kv_head"),
        grid=("kv_head", "batch"),
        lengths={**kernel.lengths, "q": problem.group},
        tiles={},
        tensors=tuple(Tensor(name, axes, "fp32") for name in (LSE_ROWS, "LSE")),
        mapping=Mapping(
            warps=1,
            matrix_unit="none",
            copy_unit="registers",
            instructions_per_element=LSE_COPY_INSTRUCTIONS / LSE_COPY_ELEMENTS,
            start_cycles=LSE_COPY_CYCLES,
            lookups=LSE_COPY_ELEMENTS - 1,
            source=COPY_SOURCE,
        ),
        group=problem.group,
    )
