"""The memory-efficient kernels of xFormers and PyTorch, written with CUTLASS.

P passes through shared memory, K/V go by ascending. Backward takes key tiles in parallel and adds
up dQ in an FP32 workspace; it does so under locks, which atomic additions stand for here, and the
last block to add rounds it, for which a kernel stands. Dropout changes no tile.
A window is one of a causal mask: `window_size` keys up to a query's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules import flash2_backward, streamed_query
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
    listed,
)
from fasim.schedules.tiling import Tiling

if TYPE_CHECKING:
    from fasim.hardware import Gpu

SOURCE = "facebookresearch/xformers, csrc/attention/cuda/fmha/kernel_{forward,backward}.h"
DTYPES = ("fp16", "bf16")
WIDEST_IN_REGISTERS = 128
REGISTERS = 128  # forward: launch bounds of 16 warps an SM
K_STEP, STAGES = 32, 3  # of CUTLASS's multistage products on sm_80 and later
ELEMENT_BYTES = 2
WARP_SIDE = 32  # rows and columns of a result that a warp computes
LARGE_BLOCK = 144 * 1024  # shared memory that 128 x 128 backward tiles of head_dim 128 ask for


def forward_tile(head_dim: int) -> Tile:
    """(tile_m, tile_n) on sm_80 and later; a warp takes 32 x 32 of S."""
    if head_dim <= 64:
        return 64, 64
    return (64, 128) if head_dim <= WIDEST_IN_REGISTERS else (32, 128)


def backward_pick(gpu: Gpu, head_dim: int) -> tuple[Tile, int]:
    """(tile_m, tile_n) and registers of a thread on sm_80 and later."""
    roomy = gpu.shared_memory.max_block_bytes >= LARGE_BLOCK
    if head_dim <= 64:
        return (64, 64), 168
    if not roomy and head_dim <= 96:
        return (128, 64), 206
    if not roomy:
        return (64, 64), 166
    return ((128, 128), 128) if head_dim <= 128 else ((128, 64), 176)


def _warps(rows: int, columns: int) -> tuple[int, int]:
    return max(1, rows // WARP_SIDE), max(1, columns // WARP_SIDE)


def _streamed_bytes(tile: Tile, head_dim: int) -> int:
    """Shared memory of forward: stages of QKᵀ's operands, or P and stages of V's rows."""
    rows, columns = tile
    query_key = STAGES * (rows + columns) * K_STEP
    value = rows * columns + STAGES * K_STEP * min(head_dim, WIDEST_IN_REGISTERS)
    return ELEMENT_BYTES * max(query_key, value)


def forward_mapping(tile: Tile, head_dim: int) -> Mapping:
    """A warp a square of S; P passes through shared memory."""
    down, across = _warps(*tile)
    return Mapping(
        down * across,
        buffers=(("Q", 1), ("K", 1), ("V", 1)),
        registers_per_thread=REGISTERS,
        warp_grid=(down, across),
        shared_memory_bytes=_streamed_bytes(tile, head_dim),
        source=SOURCE,
    )


def backward_mapping(gpu: Gpu, tile: Tile, registers: int) -> Mapping:
    """As forward; where registers leave room for one block, it may have all shared memory."""
    rows, columns = tile
    down, across = _warps(rows, columns)
    threads = 32 * down * across
    alone = gpu.sm.registers // (registers * threads) <= 1
    keys = (across, down)
    return Mapping(
        down * across,
        buffers=(("Q", 1), ("dO", 1), ("K", 1), ("V", 1)),
        registers_per_thread=registers,
        warp_grid=(down, across),
        warp_grids=(("dV", keys), ("dK", keys)),
        shared_memory_bytes=gpu.shared_memory.max_block_bytes if alone else None,
        source=SOURCE,
    )


def _build(problem: Attention, gpu: Gpu, _options: Options) -> Plan:
    tile = forward_tile(problem.head_dim)
    back, registers = backward_pick(gpu, problem.head_dim)

    def forward() -> tuple[Kernel, ...]:
        mapping = forward_mapping(tile, problem.head_dim)
        wide = problem.head_dim > WIDEST_IN_REGISTERS
        return (streamed_query.kernel(problem, Tiling(*tile), mapping, accumulates=wide),)

    def backward() -> tuple[Kernel, ...]:
        mapping = backward_mapping(gpu, back, registers)
        return flash2_backward.kernels(problem, Tiling(*back), mapping)

    shown = back if problem.direction == "backward" else tile
    assumptions = backward_tile(problem, tile, back)
    kernels = chain_of(problem, forward, backward)
    return Plan("flash2", "xformers-cutlass", kernels, shown, assumptions)


def _check(problem: Attention, gpu: Gpu) -> str | None:
    if problem.dtype not in DTYPES:
        return f"it takes {listed(DTYPES)}, not {problem.dtype}"
    if problem.head_dim % 8 or problem.head_dim > 256:
        return f"it takes head_dim up to 256 in eights, not {problem.head_dim}"
    _, right = problem.reach
    if problem.window and right != 0:
        return f"its window ends at a query's own key: it takes right 0, not {problem.window[1]}"
    if problem.masked and problem.seqlen_q > problem.seqlen_k:
        return "its causal mask leaves no row without a key: it takes no more queries than keys"
    return check_dtype(problem, gpu)


ENTRY = Entry(
    name="xformers-cutlass",
    schedule="flash2",
    title="xFormers' and PyTorch's memory-efficient kernels: Q is streamed again every step",
    source=SOURCE,
    needs="fp16 or bf16, head_dim up to 256",
    build=_build,
    check=_check,
    takes=(),
    features=("dropout", "window"),
)
