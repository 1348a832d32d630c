"""A warp scheduler: resident warps issue their streams in order against an SM's pipes.

One scheduler stands for the SM. Its schedulers are alike: a block of w warps puts w/4 on each,
and a pipe that the four share carries a quarter of its rate in the cycles of the items.

- A warp issues its items strictly in order. An item issues when the results it needs are
  visible, its pipe accepts it and there is an issue slot: one instruction a cycle.
- The instructions of a group leave at the pace of the pipe and hold the warp until the last one
  has left. Other warps may use the issue slots between them.
- In front of shared memory stands a queue: instructions issue while its backlog is shorter than
  `queue_cycles`. Asynchronous items wait in a FIFO without end, and hold the warp for no longer
  than their issue slots.
- A barrier lets its warps go `barrier_cycles` after the last arrival and up to `jitter_cycles`
  later, at random: the warps of the other schedulers arrive when they do.

Cycles are whole numbers, so nothing drifts and equal arguments give equal runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Literal, get_args

from fasim.simulator.stream import PIPES, Barrier, Stream

Policy = Literal["greedy-then-oldest", "round-robin"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

#: An issue of an item: (ready, visible, accepted, issued, start, end, cause). The warp is ready
#: when the item before has let it go; then the results it needs are visible, then its pipe
#: accepts it, then it issues, none of these before the one ahead of it; it is in service in
#: [start, end). `cause` is that of the result visible last, empty where the warp waited for none.
Issue = tuple[int, int, int, int, int, int, str]

#: An item as the loop unpacks it: pipe, gate, cycles, latency, depth, count, tail, pattern,
#: extent, needs, barrier. `gate` is where `accepts` says when it may issue; `depth` the backlog
#: at which it may not; `tail` the cycles of its last instruction; `pattern` its issue slots as
#: bits when nothing delays them and `extent` the last of these; `needs` pairs how far back in
#: the warp's results one lies with the cause of waiting for it.
_Compiled = tuple[
    int, int, int, int, int, int, int, int, int, tuple[tuple[int, str], ...], int | None
]

_NEVER = 1 << 60  # later than any cycle, deeper than any queue
_ALWAYS = len(PIPES)  # the gate that is never shut


@dataclass(frozen=True, slots=True)
class Run:
    """What a simulation leaves behind.

    Attributes:
        roles: the stream of each warp, block by block.
        warps_per_block: so many of them in a row belong to one block.
        issues: the issues of each warp, in order. The last is the one it still waits for at
            `end`, as if it came then. None at all where they are not kept.
        completions: when each iteration had left the last of its pipes, in order, warp by warp.
        end: when the last of those that were asked for had.
    """

    roles: list[Stream]
    warps_per_block: int
    issues: list[list[Issue]]
    completions: list[list[int]]
    end: int


def simulate(
    block: tuple[Stream, ...],
    residents: int,
    iterations: int,
    *,
    barrier_cycles: int,
    jitter_cycles: int,
    queue_cycles: int,
    seed: int,
    policy: Policy,
    keep_issues: bool = True,
) -> Run:
    """Run resident blocks until their warps have done `iterations` each on average.

    Args:
        keep_issues: whether anybody asks for more than how long it takes.

    Raises:
        ValueError: an argument out of range, or a barrier that is never released.
    """
    if residents < 1 or not block:
        raise ValueError(f"{residents} blocks of {len(block)} roles; 1 or more of each are needed")
    if barrier_cycles < 0 or jitter_cycles < 0 or queue_cycles < 1:
        raise ValueError(
            f"barrier_cycles is {barrier_cycles}, jitter_cycles {jitter_cycles}, queue_cycles "
            f"{queue_cycles}; the queue needs 1 or more, the others 0 or more"
        )
    if policy not in POLICIES:
        raise ValueError(f"policy is {policy!r}; choose from {', '.join(POLICIES)}")

    # The block: its warps, and its barriers with all its warps at the unnamed one.
    of_role = [n for n, role in enumerate(block) for _ in range(role.warps_per_scheduler)]
    width = len(of_role)
    barriers = _barriers(block, width)
    participants = [barrier.participants for barrier in barriers]
    names = tuple(barrier.name for barrier in barriers)
    compiled = [_compile(role, names, queue_cycles) for role in block]
    programs = [compiled[n] for n in of_role] * residents
    warps = range(len(programs))

    # Who is asked first, by who issued last.
    if policy == "round-robin":
        orders = [[*warps[last + 1 :], *warps[: last + 1]] for last in warps]
    else:
        orders = [[last, *warps[:last], *warps[last + 1 :]] for last in warps]

    # The SM.
    now = 0
    slots = 0  # issue slots taken, as bits: bit n is cycle now + n
    busy = [0] * len(PIPES)  # until when each pipe has work
    accepts = [0] * (len(PIPES) + 1)  # from when it takes more of a warp that it holds
    slack = [queue_cycles - 1 if pipe == "shared_memory" else 0 for pipe in PIPES]
    arrivals = [barrier.arrived for barrier in barriers] * residents
    waiting: list[list[int]] = [[] for _ in arrivals]
    random = Random(seed)

    # The warps.
    position = [0] * len(programs)
    items = [program[0] for program in programs]  # what each is about to issue
    gates = [item[1] for item in items]
    ready = [0] * len(programs)
    visible = [0] * len(programs)
    causes = [""] * len(programs)
    results = [[0] * _reach(program) for program in programs]
    issues: list[list[Issue]] = [[] for _ in programs]
    finish = [0] * len(programs)

    last = 0
    alone = [(warp,) for warp in warps]
    completions: list[list[int]] = [[] for _ in programs]
    left = iterations * len(programs)
    end = _NEVER
    while True:
        # The next free slot goes to the first warp that can issue then; if none can, the next
        # that can decides the cycle.
        if slots & 1:
            taken = (~slots & (slots + 1)).bit_length() - 1
            slots >>= taken
            now += taken
        if now >= end:
            break
        soonest = _NEVER
        for warp in orders[last]:
            cycle = visible[warp]
            if accepts[gates[warp]] > cycle:
                cycle = accepts[gates[warp]]
            if cycle <= now:
                break
            if cycle < soonest:
                soonest = cycle
                first = warp
        else:
            if soonest >= end:
                break
            slots >>= soonest - now
            now = soonest
            if slots & 1:
                continue
            warp = first
            cycle = soonest
        last = warp

        pipe, gate, cycles, latency, depth, count, tail, pattern, extent, _, barrier = items[warp]
        start = busy[pipe]
        if start < now:
            start = now
        stop = start + cycles
        if slots & pattern or stop - tail - depth - now >= extent:
            slots, held = _squeeze(slots, _offsets(count, cycles, start - now, depth))
            stop = max(stop, now + held + tail)
        else:
            slots |= pattern
            held = extent
        busy[pipe] = stop
        accepts[pipe] = stop - slack[pipe]
        results[warp].append(stop + latency)
        if keep_issues:
            issues[warp].append((ready[warp], visible[warp], cycle, now, start, stop, causes[warp]))
        held += now + 1
        ready[warp] = held
        if stop > finish[warp]:
            finish[warp] = stop

        freed: Sequence[int] = alone[warp]
        if barrier is not None:
            here = warp // width * len(barriers) + barrier
            if gate != _ALWAYS:
                waiting[here].append(warp)
                visible[warp] = _NEVER
                freed = ()
            arrivals[here] += 1
            if arrivals[here] == participants[barrier]:
                release = max(held, now + barrier_cycles + random.randint(0, jitter_cycles))
                for waiter in waiting[here]:
                    ready[waiter] = release
                freed = (*freed, *waiting[here])
                waiting[here] = []
                arrivals[here] = 0

        for warp in freed:
            cycle = ready[warp]
            place = position[warp] + 1
            if place == len(programs[warp]):
                place = 0
                finish[warp] = max(finish[warp], cycle)
                completions[warp].append(finish[warp])
                left -= 1
                if not left:
                    end = max(done[-1] for done in completions if done)
            position[warp] = place
            items[warp] = item = programs[warp][place]
            gates[warp] = item[1]
            cause = ""
            past = results[warp]
            for back, needed in item[9]:
                if past[-back] > cycle:
                    cycle = past[-back]
                    cause = needed
            visible[warp] = cycle
            causes[warp] = cause

    roles = [block[n] for n in of_role] * residents
    if end == _NEVER:
        stuck = [roles[warp].items[position[warp]].name for queue in waiting for warp in queue]
        raise ValueError(f"deadlock: every warp waits at a barrier: {', '.join(stuck)}")
    for warp in warps if keep_issues else ():  # what each warp still waits for
        begin = end if visible[warp] == _NEVER else ready[warp]
        seen = max(begin, min(visible[warp], end))
        accepted = max(seen, min(accepts[gates[warp]], end))
        issued = max(accepted, end)
        issues[warp].append((begin, seen, accepted, issued, issued, issued, causes[warp]))
    return Run(roles, width, issues, completions, end)


def _barriers(block: tuple[Stream, ...], width: int) -> list[Barrier]:
    """The barriers of a block of `width` warps, the unnamed one first."""
    barriers = [Barrier("", participants=width)]
    for role in block:
        for item in role.items:
            if item.barrier is not None and item.barrier not in barriers:
                barriers.append(item.barrier)
    names = [barrier.name for barrier in barriers]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"barrier {name!r} is described in {names.count(name)} ways")
    return barriers


@lru_cache(maxsize=256)
def _compile(role: Stream, barriers: tuple[str, ...], queue_cycles: int) -> list[_Compiled]:
    """The items of a role as the tuples that the loop unpacks."""
    program: list[_Compiled] = []
    for index, item in enumerate(role.items):
        if item.asynchronous:
            depth = _NEVER
        else:
            depth = queue_cycles if item.pipe == "shared_memory" else 1
        # A queue that is empty takes one instruction a cycle; the loop sees when it is not.
        offsets = _offsets(item.count, item.cycles, 0, depth)
        needs = {
            (index - needed + back * len(role.items), role.items[needed].cause)
            for needed, back in item.needs
        }
        program.append(
            (
                PIPES.index(item.pipe),
                _ALWAYS if item.asynchronous else PIPES.index(item.pipe),
                item.cycles,
                item.latency,
                depth,
                item.count,
                item.cycles - (item.count - 1) * item.cycles // item.count,
                sum(1 << offset for offset in offsets),
                offsets[-1],
                tuple(sorted(needs)),
                barriers.index(item.barrier.name if item.barrier else "")
                if item.pipe == "barrier"
                else None,
            )
        )
    return program


def _reach(program: list[_Compiled]) -> int:
    """How far back the furthest need of a program looks: results from before the start."""
    return max((back for item in program for back, _ in item[9]), default=0)


def _offsets(count: int, cycles: int, backlog: int, depth: int) -> list[int]:
    """When the instructions of a group may issue, counted from the first.

    One a cycle, each when less than `depth` cycles of work are ahead of it in its pipe, which
    has `backlog` cycles of other work when the first one issues.
    """
    return [max(number, backlog + number * cycles // count - depth + 1) for number in range(count)]


def _squeeze(slots: int, offsets: list[int]) -> tuple[int, int]:
    """Take the first free issue slot at or after each offset; the slots then, and the last."""
    slot = -1
    for offset in offsets:
        slot = max(offset, slot + 1)
        while slots >> slot & 1:
            slot += 1
        slots |= 1 << slot
    return slots, slot
