"""The `flash-attn` package before its second version: the first release, and 1.0.9.

Rows of 16 queries against 256 keys (128 for head_dim 128, or where there are no more). The first
release has a block a head; 1.0.9 deals a head's rows to several blocks where that fills the GPU
better, and takes backward by key tiles in parallel, with atomic additions to dQ, where that does.
Warps lie along the keys: what they add up over them, O and dQ, passes through shared memory.
Dropout changes no tile; there are no windows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules import flash1_package, flash2_backward
from fasim.schedules.language import Kernel
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Entry, Options, Plan, chain_of, check_dtype, listed
from fasim.schedules.tiling import Tiling

if TYPE_CHECKING:
    from fasim.hardware import Gpu

SOURCE = "Dao-AILab/flash-attention v1.0.9, csrc/flash_attn/src/fmha_{fwd,bwd}_hdim*.cu"
FIRST_SOURCE = "HazyResearch/flash-attention, 2022-05"
HEAD_DIMS = (16, 32, 64, 128)
TILE_M = 16
FORWARD_WARPS, BACKWARD_WARPS = 4, 8
FORWARD_BLOCKS_PER_SM, BACKWARD_BLOCKS_PER_SM = 2, 1  # what its registers leave room for
MAX_SPLITS = 30
# A splitting is good enough at this share of the best.
EFFICIENCY_SHARE = 0.95
# Causal backward goes by key tiles in any case from this many on.
PARALLEL_TILES = 10
ROWS_PER_STREAMING_BLOCK = 128


def tile_n(problem: Attention) -> int:
    """Keys of a tile."""
    return 128 if problem.head_dim > 64 or problem.seqlen_k <= 128 else 256


def forward_mapping() -> Mapping:
    """K and V stay in registers for a pass over Q, which is fetched a tile ahead."""
    return Mapping(
        FORWARD_WARPS,
        buffers=(("Q", 2),),
        operands_in_registers=("O",),
        registers_per_thread=255,
        warp_grid=(1, FORWARD_WARPS),
        source=SOURCE,
    )


def backward_mapping() -> Mapping:
    """Q and dO are fetched a tile ahead; K and V lie in shared memory; P and dS pass through it
    transposed, and so do the warps' parts of dQ."""
    keys, queries = (BACKWARD_WARPS, 1), (1, BACKWARD_WARPS)
    return Mapping(
        BACKWARD_WARPS,
        buffers=(("Q", 2), ("dO", 2), ("K", 1), ("V", 1)),
        operands_in_registers=("dQ",),
        registers_per_thread=255,
        warp_grid=queries,
        warp_grids=(("dV", keys), ("dK", keys), ("dQ", queries)),
        source=SOURCE,
    )


def _efficiency(blocks: int, slots: int) -> float:
    """Share of block slots that are busy, over whole waves."""
    waves = blocks / slots
    return waves / -(-blocks // slots)


def forward_splits(heads: int, sms: int) -> int:
    """Blocks that share a head's rows: the fewest within 5 % of the best efficiency."""
    slots = sms * FORWARD_BLOCKS_PER_SM
    by_splits = {s: _efficiency(heads * s, slots) for s in range(1, MAX_SPLITS + 1)}
    enough = EFFICIENCY_SHARE * max(by_splits.values())
    return next(s for s, efficiency in by_splits.items() if efficiency > enough)


def backward_by_keys(problem: Attention, sms: int) -> bool:
    """Whether backward has a block a key tile, which costs atomics, rather than a block a head."""
    heads, tile = problem.batch * problem.heads, tile_n(problem)
    slots, tiles = sms * BACKWARD_BLOCKS_PER_SM, -(-problem.seqlen_k // tile)
    if problem.causal and tiles >= PARALLEL_TILES:
        return True
    discount = 1 + (0.5 if problem.causal else 1) * tile / problem.seqlen_k
    return _efficiency(heads, slots) < _efficiency(heads * tiles, slots) / discount


def _by_keys(problem: Attention, compiled: int) -> tuple[Kernel, ...]:
    """FlashAttention-2's backward program at these tiles; dQ is zeroed by a launch of its own."""
    tiling = Tiling(TILE_M, tile_n(problem))
    before, main, after = flash2_backward.kernels(problem, tiling, backward_mapping(), compiled)
    rows = {"q": ROWS_PER_STREAMING_BLOCK}
    zeroed = replace(before.mapping, extra_launches=1)
    return (
        replace(before, tiles=rows, grid=("batch", "head", "q"), mapping=zeroed),
        replace(main, grid=("batch", "head", "k")),
        replace(after, tiles=rows),
    )


def compiled_head_dim(head_dim: int) -> int:
    """The compiled head dimension that runs `head_dim`."""
    return next(d for d in HEAD_DIMS if head_dim <= d)


def _first_release(problem: Attention, _gpu: Gpu, _options: Options) -> Plan:
    """One block a head, forward and backward."""
    return _plan("flash-attn-0.1", problem, ("head", "batch", "split"), 1, by_keys=False)


def _build(problem: Attention, gpu: Gpu, options: Options) -> Plan:
    splits = options.num_splits or forward_splits(problem.batch * problem.heads, gpu.sm_count)
    by_keys = backward_by_keys(problem, gpu.sm_count)
    said = [f"each head's rows are dealt to {splits} blocks"] if splits > 1 else []
    if problem.direction == "backward":
        said = []
    if by_keys and problem.direction != "forward":
        said.append("backward has a block a key tile")
    grid = ("batch", "head", "split")
    plan = _plan("flash-attn-1", problem, grid, splits, by_keys=by_keys)
    return replace(plan, assumptions=(*plan.assumptions, *said))


def _plan(
    name: str, problem: Attention, grid: tuple[str, ...], splits: int, *, by_keys: bool
) -> Plan:
    compiled, columns = compiled_head_dim(problem.head_dim), tile_n(problem)

    def forward() -> tuple[Kernel, ...]:
        tiling = Tiling(TILE_M, columns, num_splits=splits)
        mapping = forward_mapping()
        return (flash1_package.forward_kernel(problem, tiling, mapping, grid, compiled),)

    def backward() -> tuple[Kernel, ...]:
        if by_keys:
            return _by_keys(problem, compiled)
        tiling, mapping = Tiling(TILE_M, columns), backward_mapping()
        return (flash1_package.backward_kernel(problem, tiling, mapping, grid[:2], compiled),)

    padded = f"head_dim {problem.head_dim} runs in the kernel compiled for {compiled}"
    said = (padded,) if compiled != problem.head_dim else ()
    kernels = chain_of(problem, forward, backward)
    return Plan("flash1", name, kernels, (TILE_M, columns), said)


def _fault(problem: Attention, gpu: Gpu, dtypes: tuple[str, ...], widest: int) -> str | None:
    if problem.dtype not in dtypes:
        return f"it takes {listed(dtypes)}, not {problem.dtype}"
    if problem.head_dim > widest:
        return f"it takes head_dim up to {widest}, not {problem.head_dim}"
    if problem.group > 1:
        return "it takes as many key/value heads as query heads"
    if problem.causal and problem.seqlen_q != problem.seqlen_k:
        return "its causal mask begins at the first key: it takes as many queries as keys"
    return check_dtype(problem, gpu)


def _check_first(problem: Attention, gpu: Gpu) -> str | None:
    return _fault(problem, gpu, ("fp16",), 64)


def _check(problem: Attention, gpu: Gpu) -> str | None:
    narrow = gpu.architecture not in ("sm_80", "sm_90")
    if problem.direction != "forward" and problem.head_dim > 64 and narrow:
        return f"backward takes head_dim up to 64 on {gpu.name}, not {problem.head_dim}"
    return _fault(problem, gpu, ("fp16", "bf16"), HEAD_DIMS[-1])


ENTRY = Entry(
    name="flash-attn-1",
    schedule="flash1",
    title="the flash-attn package, version 1.0.9",
    source=SOURCE,
    needs="fp16 or bf16, head_dim up to 128, no shared K/V heads",
    build=_build,
    check=_check,
    takes=("num_splits",),
    features=("dropout",),
)
FIRST_RELEASE = Entry(
    name="flash-attn-0.1",
    schedule="flash1",
    title="the flash-attn package's first release: a block a head",
    source=FIRST_SOURCE,
    needs="fp16, head_dim up to 64, no shared K/V heads",
    build=_first_release,
    check=_check_first,
    takes=(),
    features=("dropout",),
)
