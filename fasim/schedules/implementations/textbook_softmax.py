"""Softmax alone, three ways: the schedules that attention's own softmax grew out of."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules import softmax
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Entry, Options, Plan, Tile

if TYPE_CHECKING:
    from fasim.hardware import Gpu

TILE: Tile = (4, 256)  # a row a warp, 16 bytes a thread of two-byte elements
WARPS = 4


def _build(name: str, problem: Attention, _: Gpu, options: Options) -> Plan:
    tile = options.tile or TILE
    mapping = Mapping(WARPS, matrix_unit="none", copy_unit="registers")
    return Plan(name, None, softmax.kernels(name, problem, mapping, *tile), tile)


def _check(problem: Attention, _: Gpu) -> str | None:
    if problem.direction != "forward":
        return f"direction is {problem.direction}; it runs forward"
    if problem.causal:
        return "it takes whole rows, without a mask"
    return None


def _entry(name: str, title: str, source: str) -> Entry:
    return Entry(
        name=name,
        schedule=name,
        title=title,
        source=source,
        needs="S in device memory; it is softmax alone, no attention",
        build=partial(_build, name),
        check=_check,
    )


ENTRIES = (
    _entry(
        "softmax-naive",
        "softmax alone: two passes, 2 loads and 1 store an element; large scores overflow",
        "Milakov, Gimelshein 2018, Algorithm 1",
    ),
    _entry(
        "softmax-safe",
        "softmax alone: three passes, 3 loads and 1 store an element",
        "Milakov, Gimelshein 2018, Algorithm 2",
    ),
    _entry(
        "softmax-online",
        "softmax alone: maximum and sum in one pass, 2 loads and 1 store an element",
        "Milakov, Gimelshein 2018, Algorithm 3",
    ),
)
