"""The `flash-attn-3` package (hopper/ of flash-attention): its forward tiles and launch rules.

Its backward tiles and mapping are in `flash_attn_3_backward.py`.

Source: Dao-AILab/flash-attention at 0251105a: hopper/tile_size.h, flash_fwd_launch_template.h,
tile_scheduler.hpp, mainloop_fwd_sm90_tma_gmma_ws.hpp.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules import flash3, flash3_backward
from fasim.schedules.implementations import flash_attn_3_backward
from fasim.schedules.language import Kernel
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import (
    Entry,
    Options,
    Plan,
    Refused,
    Tile,
    backward_tile,
    chain_of,
    check_dtype,
    listed,
)
from fasim.schedules.tiling import Tiling

if TYPE_CHECKING:
    from fasim.hardware import Gpu

SOURCE = "Dao-AILab/flash-attention at 0251105a, hopper/tile_size.h, tile_scheduler.hpp"
HEAD_DIMS = (64, 96, 128, 192, 256)
DTYPES = ("fp16", "bf16", "fp8")
STAGES = 2
SECTION_BYTES = 32 * 2**20  # K and V of the heads that the longest-first order keeps together

# (tile_m, tile_n) by compiled head dimension.
_TILES = {64: (192, 192), 96: (192, 144), 128: (128, 176), 192: (128, 112), 256: (128, 80)}
_CAUSAL = {64: (192, 128), 128: (128, 128)}
_LOCAL = {**_CAUSAL, 96: (192, 128), 192: (128, 96), 256: (128, 64)}  # under a window
_FP8 = {64: (192, 160), 96: (192, 128), 128: (128, 224), 192: (128, 160), 256: (128, 128)}


def kernel_head_dim(head_dim: int) -> int | None:
    """The compiled head dimension that runs `head_dim`; None if it is too large."""
    return next((d for d in HEAD_DIMS if head_dim <= d), None)


def tile_of(head_dim: int, dtype: str, causal: bool, local: bool = False) -> Tile:
    """(tile_m, tile_n) for a compiled head dimension.

    Raises:
        KeyError: `head_dim` is none of HEAD_DIMS.
    """
    if dtype == "fp8":
        return _FP8[head_dim]
    table = _LOCAL if local else _CAUSAL if causal else _TILES
    return table.get(head_dim, _TILES[head_dim])


def mapping(problem: Attention, tile: Tile, head_dim: int, stages: int = STAGES) -> Mapping:
    """The paper's mapping, with the package's rules for turns, clusters and the order of blocks.

    Blocks stay on their SMs. Masked ones are dealt out longest first by a counter in global
    memory, which a launch of its own zeroes. Two row tiles of a head share their reads of K and
    V where heads are wide, no mask makes them differ, and their number is even.
    """
    one_byte = problem.dtype == "fp8"
    base = flash3.mapping(tile, head_dim, problem.dtype, stages)
    wide = head_dim == 192 if one_byte else head_dim >= 128
    even = -(-problem.seqlen_q // tile[0]) % 2 == 0
    paired = wide and even and not problem.masked
    return replace(
        base,
        ping_pong=base.ping_pong and (head_dim >= 128 if one_byte else head_dim <= 128),
        multicast=(("K", 2), ("V", 2)) if paired else (),
        block_order="longest-first" if problem.masked else "grid",
        section_bytes=SECTION_BYTES if problem.masked else 0,
        extra_launches=1 if problem.masked else 0,
        source=SOURCE,
    )


def _plan(problem: Attention, options: Options, implementation: str | None) -> Plan:
    compiled = kernel_head_dim(problem.head_dim)
    assert compiled is not None  # checked before
    name = implementation or "flash3"
    usual = tile_of(compiled, problem.dtype, problem.causal, problem.window is not None)
    usual_back = flash_attn_3_backward.tile_of(compiled, problem.masked)
    tile, back = options.tile or usual, options.tile or usual_back

    def forward() -> tuple[Kernel, ...]:
        fault = flash3.tile_fault(tile, options.warps)
        if fault is not None:
            raise Refused(name, fault)
        mapped = mapping(problem, tile, compiled, options.stages or STAGES)
        return flash3.kernels(problem, Tiling(*tile, descending=True), mapped, compiled)

    def backward() -> tuple[Kernel, ...]:
        mapped = flash_attn_3_backward.mapping(
            name, problem, back, compiled, options.warps, options.stages or STAGES
        )
        return flash3_backward.kernels(problem, Tiling(*back), mapped, compiled)

    kernels = chain_of(problem, forward, backward)
    assumptions = list(backward_tile(problem, tile, back))
    if compiled != problem.head_dim:
        assumptions.append(
            f"head_dim {problem.head_dim} runs in the kernel compiled for {compiled}"
        )
    if problem.dtype == "fp8":
        assumptions.append("O of fp8 inputs is stored as bf16")
    shown = back if problem.direction == "backward" else tile
    return Plan("flash3", implementation, kernels, shown, tuple(assumptions))


def _check(problem: Attention, gpu: Gpu) -> str | None:
    fault = flash3.lacking(gpu)
    if fault is not None:
        return fault
    if problem.dtype not in DTYPES:
        return f"it takes {listed(DTYPES)}, not {problem.dtype}"
    if kernel_head_dim(problem.head_dim) is None:
        return f"it takes head_dim up to {HEAD_DIMS[-1]}, not {problem.head_dim}"
    return check_dtype(problem, gpu)


SCHEDULE = Entry(
    name="flash3",
    schedule="flash3",
    title="FlashAttention-3: FlashAttention-2 with softmax beside wgmma",
    source="Shah et al. 2024; backward as its package has it",
    needs="wgmma and tma (Hopper); fp16, bf16 or fp8, head_dim up to 256",
    build=lambda problem, _, options: _plan(problem, options, None),
    check=_check,
    takes=("tile", "warps", "stages"),
    features=("dropout", "window"),
)

ENTRY = Entry(
    name="flash-attn-3",
    schedule="flash3",
    title="the flash-attn package for Hopper, version 3",
    source=SOURCE,
    needs="wgmma and tma (Hopper); fp16, bf16 or fp8, head_dim up to 256",
    build=lambda problem, _, options: _plan(problem, options, "flash-attn-3"),
    check=_check,
    takes=("tile", "warps", "stages"),
    features=("window",),
)
