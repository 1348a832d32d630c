"""The `flash-attn-3` package, backward: its tiles, and how warpgroups divide the five products.

Source: Dao-AILab/flash-attention at 0251105a: hopper/flash_bwd_launch_template.h,
mainloop_bwd_sm90_tma_gmma_ws.hpp, tile_scheduler.hpp; tiles, threads and shared memory agree with
the sm_90a binaries of xformers 0.0.32.
"""

from __future__ import annotations

from fasim.problem import Attention
from fasim.schedules.flash3 import REGISTERS, WARPGROUP_ROWS, WARPGROUP_WARPS
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Refused, Tile

SOURCE = "Dao-AILab/flash-attention at 0251105a, hopper/flash_bwd_launch_template.h"
# Q, dO and the sums of dQ of the heads that the longest-first order keeps together.
SECTION_BYTES = 40 * 2**20
WGMMA_COLUMNS = 8  # the columns of wgmma's result come in eights
STAGES = 2
WIDE = 128  # wider heads leave room for one buffer of dO, and of dS
V_IN_REGISTERS = 96  # where a thread has registers left for V
UNSTAGED = 256  # so wide a tile of dQ has no room in shared memory: every thread adds its values

# (tile_m, tile_n) by compiled head dimension.
_TILES = {64: (128, 128), 96: (64, 128), 128: (80, 128), 192: (64, 96), 256: (64, 80)}
_MASKED = {128: (64, 128)}

# Whether a product is computed transposed, and its warps over its rows and columns.
Layout = tuple[bool, tuple[int, int]]


def tile_of(head_dim: int, masked: bool) -> Tile:
    """(tile_m, tile_n) for a compiled head dimension.

    Raises:
        KeyError: there is none of that head dimension.
    """
    return (_MASKED if masked else _TILES).get(head_dim, _TILES[head_dim])


def warps_of(head_dim: int) -> int:
    """Warps that compute: two warpgroups, three where tiles of 192 columns divide so."""
    return (3 if head_dim == 192 else 2) * WARPGROUP_WARPS


def mapping(
    name: str,
    problem: Attention,
    tile: Tile,
    head_dim: int,
    warps: int | None = None,
    stages: int = STAGES,
) -> Mapping:
    """Two or three warpgroups and a producer; dP is issued behind S, dK behind dQ.

    S and dP are computed as Sᵀ = K·Qᵀ where the keys divide among the warpgroups: P and dS then
    stay in registers for dV and dK, and only dS passes through shared memory, for dQ. dQ is
    added to global memory by TMA. Causal blocks go longest first, which here is a grid's order.

    Args:
        name: what to call in a refusal.
        head_dim: of the compiled kernel.
        warps: that compute, instead of the package's number.
        stages: buffers of Q, and of dO where there is room for more than one.

    Raises:
        Refused: the warpgroups cannot divide a product of this tile.
    """
    rows, keys = tile
    warps = warps or warps_of(head_dim)
    groups = warps // WARPGROUP_WARPS
    if warps % WARPGROUP_WARPS or groups not in REGISTERS:
        allowed = ", ".join(str(n * WARPGROUP_WARPS) for n in REGISTERS)
        raise Refused(name, f"{warps} warps are no whole warpgroups; {allowed} would work")
    scores = _layout((rows, keys), groups, transposed_first=True)
    key_side, query_side = _layout((keys, head_dim), groups), _layout((rows, head_dim), groups)
    if scores is None or key_side is None or query_side is None:
        raise Refused(
            name,
            f"backward tile {rows}x{keys} of head_dim {head_dim}: {groups} warpgroups cannot "
            f"divide its products, {WARPGROUP_ROWS} rows or {WARPGROUP_ROWS} columns each",
        )
    by_keys = (1, warps)
    # Whoever computed the scores of a key has its row of dV and dK.
    kept = scores == (True, by_keys) and key_side == (False, (warps, 1))
    layouts = {"S": scores, "dP": scores, "dV": key_side, "dK": key_side, "dQ": query_side}
    held = ("dP",) if head_dim == V_IN_REGISTERS else ()
    at_launch, computing = REGISTERS[groups]
    one_buffer = head_dim > WIDE
    longest_first = problem.causal and problem.window is None
    return Mapping(
        warps=warps,
        matrix_unit="wgmma",
        copy_unit="tma",
        producer_warps=WARPGROUP_WARPS,
        buffers=(
            ("Q", stages),
            ("dO", 1 if one_buffer else stages),
            ("LSE_log2", stages),
            ("delta", stages),
            ("K", 1),
            ("V", 1),
        ),
        wait_before=(("LSE_log2", "S"), ("delta", "dP")),
        beside=(("dP", "S"), ("dK", "dQ")),
        operands_in_registers=(*(("dV", "dK") if kept else ()), *held),
        transposed_matmuls=tuple(name for name, (turned, _) in layouts.items() if turned),
        operand_buffers=(("dQ", 1 if one_buffer else STAGES),),
        bulk_reduced=() if head_dim >= UNSTAGED else ("dQ_accum",),
        warp_grid=scores[1],
        warp_grids=tuple((name, grid) for name, (_, grid) in layouts.items()),
        registers_per_thread=at_launch,
        computing_registers=computing,
        block_order="longest-first" if longest_first else "grid",
        section_bytes=SECTION_BYTES if longest_first else 0,
        source=SOURCE,
    )


def _layout(
    shape: tuple[int, int], groups: int, *, transposed_first: bool = False
) -> Layout | None:
    """How warpgroups divide a result, 64 rows at a time, or its transpose; None if they cannot.

    Over rows, or over columns of rows that all have; over the rows of the transpose otherwise,
    or before.
    """
    rows, columns = shape
    warps = groups * WARPGROUP_WARPS
    plain: list[Layout] = []
    if rows % (WARPGROUP_ROWS * groups) == 0 and columns % WGMMA_COLUMNS == 0:
        plain.append((False, (warps, 1)))
    if rows % WARPGROUP_ROWS == 0 and columns % (WGMMA_COLUMNS * groups) == 0:
        plain.append((False, (WARPGROUP_WARPS, groups)))
    turned: list[Layout] = []
    if columns % (WARPGROUP_ROWS * groups) == 0 and rows % WGMMA_COLUMNS == 0:
        turned.append((True, (1, warps)))
    return next(iter(turned + plain if transposed_first else plain + turned), None)
