"""Triton's tutorial 06 since 2024-05, when its forward kernel became autotuned.

Its autotuner runs tiles of 64 or 128 rows by 32 or 64 keys, with 3, 4 or 7 stages and 4 or 8 warps,
8 only for larger tiles than these, and keeps the fastest. No table of what it kept is published,
so fasim does the same with predicted times. More stages than three only take shared memory here,
and are left out. Backward is not autotuned.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules.implementations.triton import KEYS, QUERIES, Pick, Picks, check, plan_of
from fasim.schedules.plan import Entry, Options, Plan

if TYPE_CHECKING:
    from fasim.hardware import Gpu

NAME = "triton-autotuned"
SOURCE = "triton-lang/triton python/tutorials/06-fused-attention.py, since 2024-05"
TILES = ((128, 64), (128, 32), (64, 64), (64, 32))
WARPS, STAGES = 4, 3


def _plan(problem: Attention, gpu: Gpu, options: Options, tile: tuple[int, int]) -> Plan:
    chosen = Picks(Pick(*tile, WARPS, STAGES), KEYS, QUERIES)
    return plan_of(NAME, SOURCE, chosen, problem, gpu, options)


def candidates(problem: Attention, gpu: Gpu, options: Options) -> tuple[Plan, ...]:
    """A plan for each tile that the autotuner tries: keys no more than the head is wide."""
    if problem.direction == "backward":
        return (_build(problem, gpu, options),)
    tiles = [tile for tile in TILES if tile[1] <= problem.head_dim] or [TILES[-1]]
    plans = (_plan(problem, gpu, options, tile) for tile in tiles)
    said = f"its tile is the fastest, as predicted, of the {len(tiles)} that its autotuner tries"
    return tuple(replace(each, assumptions=(*each.assumptions, said)) for each in plans)


def _build(problem: Attention, gpu: Gpu, options: Options) -> Plan:
    first = next((tile for tile in TILES if tile[1] <= problem.head_dim), TILES[-1])
    return _plan(problem, gpu, options, first)


ENTRY = Entry(
    name=NAME,
    schedule="flash2",
    title="Triton's fused-attention tutorial since 2024-05: the fastest of its autotuner's tiles",
    source=SOURCE,
    needs="fp16 or bf16, head_dim 16, 32, 64 or 128",
    build=_build,
    check=check,
    candidates=candidates,
)
