"""The `flash-attn-2` package, backward: its tiles, warp layouts and mapping.

Source: Dao-AILab/flash-attention, csrc/flash_attn/src/flash_bwd_launch_template.h; the table did
not change from v2.0.0 to v2.8.3. Every tile is chosen by the shared memory a block may have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Refused, Tile

if TYPE_CHECKING:
    from fasim.hardware import Gpu

SOURCE = "Dao-AILab/flash-attention v2.8.3, flash_bwd_launch_template.h"
WARPS = 8
KIB = 1024


@dataclass(frozen=True, slots=True)
class BackwardKernel:
    """One instantiation of the backward kernel.

    Attributes:
        least_bytes: shared memory a block must be able to have.
        score_rows, key_rows, query_rows: warps over the rows of S and dP, of dK and dV, of dQ;
            the rest of the eight lie side by side.
        v_in_registers: V is read from shared memory once, and its place taken by P and dS.
        q_buffers: two, where there is room.
        overhead: of its loop (`Mapping.overhead`), counted in version 2.0.8 as CUDA 11.8 compiled
            it for sm_80: without dropout or mask, tiles whole.
    """

    tile: Tile
    score_rows: int
    key_rows: int
    query_rows: int
    v_in_registers: bool
    q_buffers: int = 2
    least_bytes: int = 0
    overhead: tuple[int, int, int] | None = None


# Without dropout, by compiled head dimension; the first that fits is taken.
_KERNELS: dict[int, tuple[BackwardKernel, ...]] = {
    32: (BackwardKernel((128, 128), 4, 4, 4, True, overhead=(52, 11, 12)),),
    64: (
        BackwardKernel((128, 128), 4, 4, 4, False, least_bytes=144 * KIB, overhead=(73, 28, 51)),
        BackwardKernel((64, 128), 2, 4, 4, True, overhead=(38, 11, 12)),
    ),
    96: (BackwardKernel((64, 128), 2, 4, 4, True),),
    128: (
        BackwardKernel((64, 128), 2, 4, 2, False, least_bytes=144 * KIB, overhead=(38, 14, 28)),
        BackwardKernel((64, 64), 4, 2, 2, True, overhead=(38, 12, 13)),
    ),
    192: (
        BackwardKernel((64, 64), 4, 2, 2, False, least_bytes=136 * KIB),
        BackwardKernel((64, 64), 4, 2, 2, True, q_buffers=1),
    ),
    256: (
        BackwardKernel((64, 64), 4, 2, 2, False, least_bytes=176 * KIB),
        BackwardKernel((64, 64), 4, 2, 2, False, q_buffers=1, least_bytes=144 * KIB),
        BackwardKernel((64, 32), 4, 1, 2, True, q_buffers=1),
    ),
}


def kernel_of(gpu: Gpu, head_dim: int) -> BackwardKernel:
    """The instantiation that runs a compiled head dimension.

    Raises:
        KeyError: there is none of that head dimension.
    """
    available = gpu.shared_memory.max_block_bytes
    return next(kernel for kernel in _KERNELS[head_dim] if kernel.least_bytes <= available)


def mapping(kernel: BackwardKernel) -> Mapping:
    """Eight warps; P and dS pass through shared memory; registers allow one block an SM.

    Per step: wait for Q and dO, barrier; S, dP; P and dS stored, barrier; dV; barrier, the next
    dO issued; dQ added to global memory; dK.
    """
    keys = (kernel.key_rows, WARPS // kernel.key_rows)
    queries = (kernel.query_rows, WARPS // kernel.query_rows)
    v = () if kernel.v_in_registers else (("V", 1),)
    return Mapping(
        warps=WARPS,
        matrix_unit="mma.sync",
        copy_unit="cp.async",
        buffers=(("Q", kernel.q_buffers), ("dO", 1), ("K", 1), *v),
        wait_before=(("dO", "S"),),
        registers_per_thread=255,
        overhead=kernel.overhead,
        warp_grid=(kernel.score_rows, WARPS // kernel.score_rows),
        warp_grids=(("dV", keys), ("dK", keys), ("dQ", queries)),
        source=SOURCE,
    )


def mapping_for(tile: Tile, head_dim: int, asked: int | None = None, q_buffers: int = 2) -> Mapping:
    """The same for a tile that is in no table: warps in squares, as far as fragments allow.

    Args:
        asked: warps to take instead of as many as divide the tile.

    Raises:
        Refused: so many warps cannot divide S into whole fragments.
    """
    rows, columns = tile
    if asked is not None and _grid(rows, columns, asked) is None:
        fault = f"{asked} warps cannot divide a tile of {rows}x{columns} scores into fragments"
        raise Refused("backward", fault)
    warps, scores = next(
        (warps, grid)
        for warps in ((asked,) if asked else (8, 4, 2, 1))
        if (grid := _grid(rows, columns, warps)) or warps == 1
    )
    keys, queries = _grid(columns, head_dim, warps), _grid(rows, head_dim, warps)
    each = (("dV", keys), ("dK", keys), ("dQ", queries))
    return Mapping(
        warps=warps,
        buffers=(("Q", q_buffers), ("dO", 1), ("K", 1), ("V", 1)),
        wait_before=(("dO", "S"),),
        warp_grid=scores or (1, 1),
        warp_grids=tuple((matmul, grid) for matmul, grid in each if grid),
        source=SOURCE,
    )


def _grid(rows: int, columns: int, warps: int) -> tuple[int, int] | None:
    """Warps over rows × columns of a result, whole fragments each, that read least; or None."""
    grids = [(down, warps // down) for down in (8, 4, 2, 1) if warps % down == 0]
    whole = [(d, a) for d, a in grids if rows % (16 * d) == 0 and columns % (8 * a) == 0]
    return min(whole, key=lambda grid: rows / grid[0] + columns / grid[1], default=None)
