"""A server's call of FlashAttention-2: new K and V into pages, then `mha_varlen_fwd` over them.

vLLM 0.14.0 on a GPU without FlashAttention-3. Sequences lie end to end; the result goes into a
tensor that the caller gives. With one query a sequence, the heads of a group become rows, and only
then are keys split. The order of the folded rows is no view of the caller's tensors unless there
is one sequence or one key/value head.

Source: vLLM 0.14.0, csrc/cache_kernels.cu and vllm/v1/attention/backends/flash_attn.py; the calls
of `mha_varlen_fwd` and the kernels' machine code for sm_80 as released.
"""

from __future__ import annotations

from dataclasses import replace

from fasim.problem import Attention
from fasim.schedules import split_kv
from fasim.schedules.implementations import flash_attn_2_split as split_path
from fasim.schedules.implementations import pytorch_copies
from fasim.schedules.implementations.pytorch_elementwise import rows_of_block
from fasim.schedules.language import Kernel, Tensor
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Options
from fasim.schedules.split_kv import PLAIN, Names
from fasim.schedules.tiling import Tiling

Q_ROWS, O_ROWS, LSE_ROWS = "Q_rows", "O_rows", "LSE_rows"  # in the order of folded rows
CUDA = (12, 8)  # of PyTorch 2.9.1's build, for which vLLM's kernels are compiled
# Where a sequence begins is read before its length.
LOOKUPS = 1

# reshape_and_cache_flash_kernel for 16-bit tensors.
WRITE_SOURCE = "vLLM 0.14.0, csrc/cache_kernels.cu, as compiled for sm_80"
WRITE_WARPS = 16  # of a block, at most
WRITE_VECTOR = 8  # elements that a thread moves at a time
WRITE_REGISTERS = 54
# Of a warp with nothing to move: the slot, its division by the page size, addresses in 64 bits.
WRITE_INSTRUCTIONS_IDLE = 114
WRITE_INSTRUCTIONS = 222  # of one that moves a vector of K and one of V
WRITE_INSTRUCTIONS_PER_PASS = 28  # of each further vector of both
WRITE_CYCLES = 886  # of those 222, issued by a warp alone

# PyTorch's strided copies, elementwise_kernel<128, 4> of bf16 and <128, 2> of fp32: a thread
# divides its way to an element, loads and stores it, then goes on to the next. Q and O have four
# dimensions here, LSE three.
COPY_SOURCE = "PyTorch 2.9.1, Copy.cu, as compiled for sm_80"
COPY_ELEMENTS, COPY_CYCLES, COPY_INSTRUCTIONS = 4, 800, 207  # of a thread
LSE_ELEMENTS, LSE_CYCLES, LSE_INSTRUCTIONS = 2, 354, 89


def calls(options: Options) -> bool:
    """Whether a server calls: over a cache in pages that it has just written."""
    return options.page_size is not None and options.writes_kv is True


def folds(problem: Attention, packed: bool) -> bool:
    """Whether the call folds heads into rows, and splits keys."""
    return packed and problem.seqlen_q == 1


def names(problem: Attention, tiling: Tiling) -> Names:
    """The tensors that the attention kernels read and write.

    O is copied into the caller's tensor whenever heads are folded. Q is copied where the rows are
    no view of it; LSE of one split too, while combining leaves it in the caller's order.
    """
    if not folds(problem, tiling.pack_gqa):
        return PLAIN
    if min(problem.batch, problem.kv_heads) == 1:
        return Names(o=O_ROWS)
    return Names(Q_ROWS, O_ROWS, LSE_ROWS if tiling.num_splits == 1 else "LSE")


def said(chain: Names) -> list[str]:
    """What is copied, for a plan's assumptions."""
    if chain.o != O_ROWS:
        return []
    rows = "Q is copied into rows of folded heads, and " if chain.q == Q_ROWS else ""
    return [f"as in vLLM's mha_varlen_fwd, {rows}O is copied into the caller's tensor"]


def kernels(
    problem: Attention, tiling: Tiling, mapping: Mapping, compiled: int
) -> tuple[Kernel, ...]:
    """The chain of a call, in kernels compiled for a head dimension."""
    chain = names(problem, tiling)
    served = replace(mapping, lookups=LOOKUPS)
    attention = split_path.kernels(problem, tiling, served, compiled, chain, padded=False)
    copies = [split_kv.write_kernel(problem, cache_write(problem))]
    if chain.q == Q_ROWS:
        copies.append(_copy_rows(problem, "Q", Q_ROWS))
    back = [_copy_rows(problem, O_ROWS, "O")] if chain.o == O_ROWS else []
    if chain.lse == LSE_ROWS:
        back.append(_copy_lse(problem))
    return (*copies, *attention, *back)


def cache_write(problem: Attention) -> Mapping:
    """reshape_and_cache_flash: a block a token, and a thread an element.

    A block first looks up the token's slot. Threads move 16 bytes each, so that most have nothing
    to do; they issue half of the instructions all the same, and take up registers: few tokens
    are under way at a time. A thread with several vectors waits for each before it loads the next.
    """
    elements = problem.kv_heads * problem.head_dim
    vectors = -(-elements // WRITE_VECTOR)
    warps = min(-(-elements // 32), WRITE_WARPS)
    moving = min(-(-vectors // 32), warps)
    passes = -(-vectors // (32 * warps))
    busy = WRITE_INSTRUCTIONS + (passes - 1) * WRITE_INSTRUCTIONS_PER_PASS
    instructions = moving * busy + (warps - moving) * WRITE_INSTRUCTIONS_IDLE
    return Mapping(
        warps=warps,
        matrix_unit="none",
        copy_unit="registers",
        registers_per_thread=WRITE_REGISTERS,
        instructions_per_element=32 * instructions / elements,
        start_cycles=WRITE_CYCLES,
        lookups=1 + 2 * (passes - 1),
        source=WRITE_SOURCE,
    )


def _strided(warps: int, elements: int, cycles: int, instructions: int) -> Mapping:
    """A copy whose threads take so many elements, one after the other."""
    return Mapping(
        warps=warps,
        matrix_unit="none",
        copy_unit="registers",
        instructions_per_element=instructions / elements,
        start_cycles=cycles,
        lookups=elements - 1,
        source=COPY_SOURCE,
    )


def _copy_rows(problem: Attention, source: str, target: str) -> Kernel:
    """read one tensor; write it with the rows of a folded group in another order.

    Folding is the layout's here: the values of a row are the same on both sides. Where the order
    is the same too, of one sequence or one key/value head, cudaMemcpyAsync copies.
    """
    kernel = pytorch_copies.copy_kernel(problem, source, target, ("batch", "kv_head", "q", "d"))
    memcpy = Mapping(4, matrix_unit="none", copy_unit="registers", source="cudaMemcpyAsync")
    strided = _strided(4, COPY_ELEMENTS, COPY_CYCLES, COPY_INSTRUCTIONS)
    return replace(
        kernel,
        lengths={**kernel.lengths, "q": problem.group},
        tiles={"q": rows_of_block(problem.group, problem.head_dim)},
        mapping=strided if min(problem.batch, problem.kv_heads) > 1 else memcpy,
        group=problem.group,
    )


def _copy_lse(problem: Attention) -> Kernel:
    """read LSE_rows; write LSE, heads before sequences; a block a sequence."""
    axes = ("batch", "kv_head", "q")
    kernel = pytorch_copies.copy_kernel(problem, LSE_ROWS, "LSE", axes)
    return replace(
        kernel,
        program=pytorch_copies.copy_program({LSE_ROWS: "LSE"}, "kv_head"),
        grid=("kv_head", "batch"),
        lengths={**kernel.lengths, "q": problem.group},
        tiles={},
        tensors=tuple(Tensor(name, axes, "fp32") for name in (LSE_ROWS, "LSE")),
        mapping=_strided(1, LSE_ELEMENTS, LSE_CYCLES, LSE_INSTRUCTIONS),
        group=problem.group,
    )
