"""Attribution: what each cycle of a block went to. One cause a cycle, and no cycle left over."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter

from fasim.simulator.stream import PIPES, Item
from fasim.simulator.warp_scheduler import Issue

#: The pipes in which work is done. What a barrier or a wait takes is waiting.
SERVICE_PIPES = tuple(pipe for pipe in PIPES if pipe not in ("barrier", "wait"))

#: A stretch of cycles to charge: (waiting since, begin, end, cause).
_Stroke = tuple[int, int, int, str]

_issued = itemgetter(3)


def charge_cycles(
    warps: Sequence[tuple[Sequence[Item], Sequence[Issue]]], begin: int, end: int
) -> dict[str, int]:
    """Cycles of [begin, end) by cause, for one block. They sum to end − begin.

    A cycle in which an item of the block is in service goes to its pipe, the first of `PIPES`
    where there are several. Any other goes to what its longest-waiting warp waited for. A warp
    waits first for results (their cause), then for a pipe that is busy with others (that pipe),
    then for an issue slot ("issue"); behind an item it may be held by a full queue (the pipe)
    or by a barrier ("barrier"). The slot of a wait is an issue slot.

    Args:
        warps: for each warp of the block the items of its stream and its issues in order, the
            last of them not before `end`.
    """
    work: dict[str, list[_Stroke]] = {pipe: [] for pipe in PIPES}
    waits: list[_Stroke] = []
    for items, issues in warps:
        pipes = [item.pipe for item in items]
        count = len(pipes)
        current = bisect_right(issues, begin, key=_issued)
        for number in range(current):  # issued before the window, and perhaps in service in it
            _, _, _, _, start, finish, _ = issues[number]
            if finish > begin:
                pipe = pipes[number % count]
                work[pipe].append((start, start, finish, pipe))
        since = served = issues[current - 1][3] if current else 0
        holder = pipes[(current - 1) % count]
        for number in range(current, len(issues)):
            ready, visible, accepted, issued, start, finish, cause = issues[number]
            pipe = pipes[number % count]
            if ready > served:
                waits.append((since, served, ready, holder))
            if visible > ready:
                waits.append((ready, ready, visible, cause))
            if accepted > visible:
                waits.append((ready, visible, accepted, pipe))
            if issued > accepted:
                waits.append((ready, accepted, issued, "issue"))
            work[pipe].append((start, start, finish, pipe))
            since, holder = issued, pipe
            served = finish if start == issued and pipe in SERVICE_PIPES else issued

    # Each stroke covers what is there already: the longest wait the shorter ones, work the
    # waits, and work in a pipe of higher rank that in one of lower.
    waits.sort(reverse=True)
    strokes = waits
    for pipe in reversed(SERVICE_PIPES):
        strokes += work[pipe]
    causes = dict.fromkeys(cause for _, _, _, cause in strokes)
    inks = {cause: bytes((number,)) for number, cause in enumerate(causes, start=1)}
    cycles = bytearray(end - begin)
    for _, first, last, cause in strokes:
        if last > end:
            last = end
        if first < begin:
            first = begin
        if first < last:
            cycles[first - begin : last - begin] = inks[cause] * (last - first)
    charges = {cause: count for cause, ink in inks.items() if (count := cycles.count(ink))}
    if "wait" in charges:
        charges["issue"] = charges.get("issue", 0) + charges.pop("wait")
    return charges
