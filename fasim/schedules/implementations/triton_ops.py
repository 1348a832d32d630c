"""Triton's own operator `triton.ops.flash_attention`, as Triton 2.1.0 ships it.

What Triton meant in benchmarks of 2023. Version 2.0.0 has head_dim 64 only and always masks. The
facts of compiled kernels are those of 2.1.0's compiler for sm_80.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules import flash2, one_pass
from fasim.schedules.implementations.ptxas import guards_fragments
from fasim.schedules.implementations.triton import Pick, forward_mapping
from fasim.schedules.language import Kernel
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Entry, Options, Plan, backward_tile, chain_of, check_dtype, listed
from fasim.schedules.tiling import Tiling

if TYPE_CHECKING:
    from fasim.hardware import Gpu

SOURCE = "triton 2.1.0, triton/ops/flash_attention.py; registers and spills as it compiles it"
DTYPES = ("fp16", "bf16")
HEAD_DIMS = (16, 32, 64, 128)
CUDA = (12, 1)  # of the ptxas that comes with it
ROWS = 128  # of Q in either direction, and of K/V in backward
FORWARD_COLUMNS, FORWARD_STAGES = 64, 4
BACKWARD_WARPS = 8
# dQᵀ is stored without a swizzle, columns of it side by side: of the eight rows and four columns
# that a warp stores at once, columns meet in the same banks.
TRANSPOSED_WAYS = 4
# Registers that an iteration of backward's inner loop stores to local memory and loads again: the
# mean of STL and LDL words, by (head_dim, causal, parallel). Narrower heads spill none.
SPILLED = {
    (64, False, False): 4,
    (64, False, True): 6,
    (64, True, False): 18,
    (64, True, True): 24,
    (128, False, False): 228,
    (128, False, True): 136,
    (128, True, False): 266,
    (128, True, True): 154,
}


def backward_mapping(problem: Attention, *, parallel: bool) -> Mapping:
    """Eight warps, each with rows of every product; one stage, so that nothing is fetched ahead.

    P and dS pass through shared memory to be transposed, in each other's place. dQ leaves it by
    rows. In sequence, dS is dQ's operand as it lies in registers; in parallel, dQᵀ = KᵀdSᵀ.
    """
    d = problem.head_dim
    return Mapping(
        BACKWARD_WARPS,
        buffers=(("Q", 1), ("K", 1), ("V", 1), ("dO", 1)),
        plain_loads=("Q", "K", "V", "dO"),
        operands_in_registers=() if parallel else ("dQ",),
        rearranged=(("dQ_replicas", TRANSPOSED_WAYS),) if parallel else (("dQ_sum", 1),),
        spilled_in_loop=SPILLED.get((d, problem.causal, parallel), 0),
        shared_memory_bytes=2 * (4 * ROWS * d + ROWS * ROWS),
        warp_grid=(BACKWARD_WARPS, 1),
        masks_every_tile=True,
        source=SOURCE,
    )


def takes_tiles_in_parallel(problem: Attention, gpu: Gpu) -> bool:
    """Whether backward has a block a tile of K/V: where that leaves fewer SMs idle over its waves.

    The operator leaves it to its caller; a benchmark takes the faster.
    """
    heads = problem.batch * problem.heads
    return _busy_share(heads, gpu) < _busy_share(heads * -(-problem.seqlen_k // ROWS), gpu)


def _busy_share(blocks: int, gpu: Gpu) -> float:
    """Of SMs with a block each, over whole waves."""
    return blocks / (-(-blocks // gpu.sm_count) * gpu.sm_count)


def _build(problem: Attention, gpu: Gpu, _options: Options) -> Plan:
    parallel = takes_tiles_in_parallel(problem, gpu)
    warps = 4 if problem.head_dim <= 64 else 8

    def forward() -> tuple[Kernel, ...]:
        usual = forward_mapping(gpu, Pick(ROWS, FORWARD_COLUMNS, warps, FORWARD_STAGES), SOURCE)
        # Triton 2.1 keeps a tile a stage in shared memory, of K and of V.
        kept = (("Q", 1), ("K", FORWARD_STAGES), ("V", FORWARD_STAGES))
        guarded = guards_fragments(gpu, CUDA)
        mapping = replace(usual, buffers=kept, guarded_fragments=guarded, masks_every_tile=True)
        (kernel,) = flash2.kernels(problem, Tiling(ROWS, FORWARD_COLUMNS), mapping)
        return (replace(kernel, grid=("q", "head", "batch")),)

    def backward() -> tuple[Kernel, ...]:
        usual = backward_mapping(problem, parallel=parallel)
        mapping = replace(usual, guarded_fragments=guards_fragments(gpu, CUDA))
        return one_pass.kernels(problem, Tiling(ROWS, ROWS), mapping, parallel=parallel)

    chain = chain_of(problem, forward, backward)
    tile, back = (ROWS, FORWARD_COLUMNS), (ROWS, ROWS)
    said = backward_tile(problem, tile, back)
    if problem.direction != "forward":
        of = "key tile, each with its replica of dQ" if parallel else "head"
        said = (*said, f"backward has a block a {of}")
    shown = back if problem.direction == "backward" else tile
    return Plan("flash2", "triton-2.1", chain, shown, said)


def _check(problem: Attention, gpu: Gpu) -> str | None:
    if problem.dtype not in DTYPES:
        return f"it takes {listed(DTYPES)}, not {problem.dtype}"
    if problem.head_dim not in HEAD_DIMS:
        taken = listed([str(head_dim) for head_dim in HEAD_DIMS])
        return f"it takes head_dim {taken}, not {problem.head_dim}"
    if problem.group > 1:
        return "it takes as many key/value heads as query heads"
    if problem.seqlen_q != problem.seqlen_k or problem.seqlen_q % ROWS:
        lengths = f"{problem.seqlen_q} and {problem.seqlen_k}"
        return f"it takes as many queries as keys, a multiple of {ROWS}, not {lengths}"
    return check_dtype(problem, gpu)


ENTRY = Entry(
    name="triton-2.1",
    schedule="flash2",
    title="triton.ops.flash_attention of Triton 2.1; backward in one pass, without atomics",
    source=SOURCE,
    needs=f"fp16 or bf16, head_dim 16, 32, 64 or 128, a multiple of {ROWS} queries and keys",
    build=_build,
    check=_check,
    takes=(),
)
