"""Attribution: what each cycle of a block went to. One cause a cycle, and no cycle left over."""

from __future__ import annotations

from collections.abc import Sequence

from fasim.simulator.stream import PIPES, Item
from fasim.simulator.warp_scheduler import Issue

#: The pipes in which work is done. What a barrier or a wait takes is waiting.
SERVICE_PIPES = tuple(pipe for pipe in PIPES if pipe not in ("barrier", "wait"))


def charge_cycles(
    warps: Sequence[tuple[Sequence[Item], Sequence[Issue]]], begin: int, end: int
) -> dict[str, int]:
    """Cycles of [begin, end) by cause, for one block. They sum to end − begin.

    A cycle in which an item of the block is in service goes to its pipe, the first of `PIPES`
    where there are several. Any other goes to what its longest-waiting warp waited for. A warp
    waits first for results (their cause), then for a pipe that is busy with others (that pipe),
    then for an issue slot ("issue"); behind an item it may be held by a full queue (the pipe)
    or by a barrier ("barrier").

    Args:
        warps: for each warp of the block the items of its stream and its issues in order, the
            last of them not before `end`.
    """
    work: dict[str, list[tuple[int, int]]] = {pipe: [] for pipe in SERVICE_PIPES}
    work["barrier"] = work["wait"] = []  # never painted
    waits: list[
        tuple[int, int, int, str]
    ] = []  # (waiting since, first cycle, last cycle + 1, cause)
    for items, issues in warps:
        pipes = [item.pipe for item in items]
        holders = ["issue" if pipe == "wait" else pipe for pipe in pipes]
        length = len(items)
        held_since, holder = 0, "issue"
        position = 0
        for ready, visible, accepted, issued, start, finish, cause in issues:
            pipe = pipes[position]
            if issued > begin and held_since < end:
                waits.append((held_since, held_since, ready, holder))
                if visible > ready:
                    waits.append((ready, ready, visible, cause))
                if accepted > visible:
                    waits.append((ready, visible, accepted, pipe))
                if issued > accepted:
                    waits.append((ready, accepted, issued, "issue"))
            if finish > begin:
                work[pipe].append((start, finish))
            held_since, holder = issued, holders[position]
            position = position + 1 if position + 1 < length else 0

    # Each stroke covers what was painted before: the longest wait the shorter ones, work the
    # waits, and work of higher rank that of lower.
    waits.sort(reverse=True)
    causes = list(dict.fromkeys([*SERVICE_PIPES, "barrier", "issue", *(w[3] for w in waits)]))
    code = {cause: number for number, cause in enumerate(causes, start=1)}
    strokes = [(first, last, code[cause]) for _, first, last, cause in waits]
    for pipe in reversed(SERVICE_PIPES):
        strokes += [(first, last, code[pipe]) for first, last in work[pipe]]
    cycles = bytearray(end - begin)
    for first, last, colour in strokes:
        first = first - begin if first > begin else 0
        last = (last if last < end else end) - begin
        if first < last:
            cycles[first:last] = bytes((colour,)) * (last - first)
    return {cause: count for cause in causes if (count := cycles.count(code[cause]))}
