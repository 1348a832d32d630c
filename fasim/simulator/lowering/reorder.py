"""List scheduling: the order that a compiler gives to instructions between two barriers.

Of the items whose operands are made, the one that a warp alone could issue soonest comes next; of
several, the first in the program. Registers are not counted: nothing bounds how early a load goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fasim.simulator.stream import Item

_STAY = ("barrier", "wait")  # nothing passes these


def list_scheduled(items: Sequence[Item]) -> tuple[Item, ...]:
    """The same items, in the order in which one warp alone would issue them soonest."""
    order: list[int] = []
    between: list[int] = []
    for index, item in enumerate(items):
        if item.pipe in _STAY:
            order += [*_ordered(items, between), index]
            between = []
        else:
            between.append(index)
    order += _ordered(items, between)
    place = {index: position for position, index in enumerate(order)}
    moved = (tuple((place[needed], back) for needed, back in items[index].needs) for index in order)
    return tuple(
        replace(items[index], needs=needs) for index, needs in zip(order, moved, strict=True)
    )


def _ordered(items: Sequence[Item], between: Sequence[int]) -> list[int]:
    """The order of the items between two barriers; what was made before is there."""
    waiting, order = list(between), list[int]()
    unmade = set(between)
    visible: dict[int, int] = {}  # item → cycle from which its result is
    free: dict[str, int] = {}  # pipe → cycle from which it is
    now = 0
    while waiting:
        soonest: tuple[int, int] | None = None
        for index in waiting:
            item = items[index]
            needed = [need for need, back in item.needs if back == 0]
            if not unmade.isdisjoint(needed):
                continue
            start = max(now, *(visible.get(need, 0) for need in needed), 0)
            if not item.asynchronous:
                start = max(start, free.get(item.pipe, 0))
            if soonest is None or start < soonest[0]:
                soonest = start, index
            if start <= now:
                break
        assert soonest is not None  # the first of those that wait needs none of the others
        start, index = soonest
        item = items[index]
        begin = max(start, free.get(item.pipe, 0))
        free[item.pipe] = begin + item.cycles
        visible[index] = begin + item.cycles + item.latency
        now = start + item.count
        waiting.remove(index)
        unmade.remove(index)
        order.append(index)
    return order
