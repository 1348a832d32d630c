"""The memory-efficient kernels of xFormers and PyTorch, written with CUTLASS.

P passes through shared memory, K/V go by ascending; all products stream their operands in pieces
of 32 along the contracted side. Backward takes key tiles in parallel and adds up dQ in an FP32
workspace under locks. The last block to add rounds it, for which a kernel stands here. Not
modelled: dK and dV in a workspace too, where they do not fit registers (head_dim over 128, over 96
where shared memory is small); two key tiles a block, where keys are that few and heads many.
Dropout changes no tile. A window is one of a causal mask: `window_size` keys up to a query's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules import streamed_backward, streamed_query
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

SOURCE = "facebookresearch/xformers v0.0.20, csrc/attention/cuda/fmha/kernel_{forward,backward}.h"
DTYPES = ("fp16", "bf16")
WIDEST_IN_REGISTERS = 128
REGISTERS = 128  # forward, as its launch bounds leave
# Launch bounds: warps that an SM holds at least, in blocks of forward and of backward.
FORWARD_BOUND, BACKWARD_BOUND = 16, 12
K_STEP = 32  # of CUTLASS's multistage products, which have so many stages on sm_80 and later:
FORWARD_STAGES, BACKWARD_STAGES = 4, 3
ELEMENT_BYTES = 2
DELTA_BYTES = 4  # of a row, in shared memory
WARP_SIDE = 32  # rows and columns of a result that a warp computes
ROW_PADDING = 8  # elements between the rows of P and dS in shared memory
# Overhead, here and of backward: iterators are set up anew for every product. Counted in machine
# code (v0.0.20, sm_80, fp16) along the path of a whole tile without mask, bias and dropout, at the
# widest head of the kernel. Other kernels: not counted.
FORWARD_OVERHEAD = {(64, 64): (157, 108, 161), (64, 128): (176, 160, 188)}
WIDEST = 65536  # "head_dim" of the kernels for any


def forward_tile(head_dim: int) -> Tile:
    """(tile_m, tile_n) on sm_80 and later; a warp takes 32 x 32 of S."""
    if head_dim <= 64:
        return 64, 64
    return (64, 128) if head_dim <= WIDEST_IN_REGISTERS else (32, 128)


@dataclass(frozen=True, slots=True)
class Backward:
    """A compiled backward kernel on sm_80 and later.

    Attributes:
        tile: (tile_m, tile_n).
        widest: the head_dim it is compiled for at most.
        overhead: of its loop, where it has been counted.
        preloads: whether a product's first pieces are fetched while the one before ends, which
            takes shared memory for both.
    """

    tile: Tile
    registers: int
    widest: int
    overhead: tuple[int, int, int] | None = None
    preloads: bool = True

    @property
    def keys_resident(self) -> bool:
        """Whether K, for S, stays: its pieces all fit the stages, and nothing else lies there."""
        return self.preloads and self.widest <= BACKWARD_STAGES * K_STEP

    @property
    def shared_memory_bytes(self) -> int:
        """Of a block: the largest of the sets of tiles that share their place in turns."""
        rows, columns = self.tile
        stages = BACKWARD_STAGES * K_STEP
        scores = columns * (rows + ROW_PADDING)
        both = stages * (rows + columns)  # of S, or of dP
        if self.preloads:  # K of S stays beside P and what dV and dP take
            elements = stages * columns + scores + stages * rows + both
        else:
            transposed = rows * (columns + ROW_PADDING)
            elements = max(both + scores, scores + transposed + stages * rows)
        return ELEMENT_BYTES * elements + DELTA_BYTES * rows


SMALL = Backward((64, 64), 168, 64, overhead=(403, 303, 178))
LARGE = Backward((128, 128), 128, 128, overhead=(595, 411, 717))
ANY_WIDTH = Backward((128, 64), 176, WIDEST, preloads=False)


def backward_pick(gpu: Gpu, head_dim: int) -> Backward:
    """The kernel that the dispatcher takes: the first that is wide enough and fits."""
    if head_dim <= SMALL.widest:
        return SMALL
    if head_dim > LARGE.widest:
        return ANY_WIDTH
    if gpu.shared_memory.max_block_bytes >= LARGE.shared_memory_bytes:
        return LARGE
    if head_dim <= 96:
        return Backward((128, 64), 206, 96)
    return Backward((64, 64), 166, 128, preloads=False)


# Whose end frees the shared memory of the first pieces of whose operands.
PRELOADS = (("S", "dK"), ("dV", "S"), ("dP", "S"), ("dQ", "dP"), ("dK", "dP"))


def _warps(rows: int, columns: int) -> tuple[int, int]:
    return max(1, rows // WARP_SIDE), max(1, columns // WARP_SIDE)


def _streamed_bytes(tile: Tile, head_dim: int) -> int:
    """Shared memory of forward: stages of QKᵀ's operands, or P and stages of V's rows."""
    rows, columns = tile
    stages = FORWARD_STAGES * K_STEP
    query_key = stages * (rows + columns)
    value = rows * (columns + ROW_PADDING) + stages * min(head_dim, WIDEST_IN_REGISTERS)
    return ELEMENT_BYTES * max(query_key, value)


def forward_mapping(tile: Tile, head_dim: int) -> Mapping:
    """A warp a square of S; P passes through shared memory."""
    down, across = _warps(*tile)
    return Mapping(
        down * across,
        buffers=(("Q", 1), ("K", 1), ("V", 1)),
        registers_per_thread=REGISTERS,
        least_blocks=FORWARD_BOUND // (down * across),
        overhead=FORWARD_OVERHEAD.get(tile),
        warp_grid=(down, across),
        shared_memory_bytes=_streamed_bytes(tile, head_dim),
        product_step=K_STEP,
        stages=FORWARD_STAGES,
        fetched_after=(("O", "S"),),
        source=SOURCE,
    )


def backward_mapping(kernel: Backward) -> Mapping:
    """As forward; dQ's sums are added to by one block at a time."""
    down, across = _warps(*kernel.tile)
    keys = (across, down)
    return Mapping(
        down * across,
        buffers=(("Q", 2), ("dO", 2), ("K", 2), ("V", 1)),
        registers_per_thread=kernel.registers,
        least_blocks=max(1, BACKWARD_BOUND // (down * across)),
        overhead=kernel.overhead,
        warp_grid=(down, across),
        warp_grids=(("dV", keys), ("dK", keys)),
        shared_memory_bytes=kernel.shared_memory_bytes,
        lies_transposed=("S",),
        product_step=K_STEP,
        stages=BACKWARD_STAGES,
        fetched_after=PRELOADS if kernel.preloads else (),
        locked=("dQ_accum",),
        wait_before=(("delta", "S"),),
        source=SOURCE,
    )


def _build(problem: Attention, gpu: Gpu, _options: Options) -> Plan:
    tile = forward_tile(problem.head_dim)
    back = backward_pick(gpu, problem.head_dim)

    def forward() -> tuple[Kernel, ...]:
        mapping = forward_mapping(tile, problem.head_dim)
        wide = problem.head_dim > WIDEST_IN_REGISTERS
        return (streamed_query.kernel(problem, Tiling(*tile), mapping, accumulates=wide),)

    def backward() -> tuple[Kernel, ...]:
        return streamed_backward.kernels(
            problem,
            Tiling(*back.tile),
            backward_mapping(back),
            keys_resident=back.keys_resident,
        )

    shown = back.tile if problem.direction == "backward" else tile
    assumptions = backward_tile(problem, tile, back.tile)
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
