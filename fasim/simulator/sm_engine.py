"""The SM engine: how fast r resident blocks go round their loop, and what their cycles go to.

How much softmax hides behind matmul is not assumed; it follows from who issues when. A loop is
periodic after an iteration or two, so a few iterations give its rate. Which phase two blocks
fall into hangs on details no model has: who issues next among the warps that can, and when
barriers let go. Runs that differ in both are averaged, so that no one phase decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from math import ceil
from statistics import fmean
from typing import NamedTuple

from fasim.simulator.attribution import SERVICE_PIPES, charge_cycles
from fasim.simulator.stream import Stream
from fasim.simulator.warp_scheduler import Policy, Run, simulate

_WARM_UP = 2  # iterations before the measured window
_MEASURED = 3  # iterations in the window, at least
_MEASURED_ISSUES = 256  # issues in the window, at least: a tiny stream takes more iterations


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast resident blocks go round their loop.

    Attributes:
        cycles: T(r), the steady cycles in which r resident blocks do one iteration each; the
            mean over runs.
        spread: cycles between the fastest run and the slowest.
        charges: the cycles of a period by cause, the mean over blocks; they sum to `cycles`.
            Shares are those of the first run. Empty where they were not asked for.
        utilisation: the share of time, 0 … 1, in which each pipe is busy and, as "issue", the
            share of issue slots taken.
        seeds: runs averaged: one where nothing is random.
        iterations: iterations in the measured window of a run.
    """

    cycles: float
    spread: float
    charges: dict[str, float]
    utilisation: dict[str, float]
    seeds: int
    iterations: int


class TraceEvent(NamedTuple):
    """An item of one warp: how long it waited to issue, why, and when it was in service."""

    block: int
    warp: int
    item: str
    pipe: str
    start: int
    end: int
    issued: int
    waited: int
    cause: str  # what released the warp; empty where it did not wait


def steady_rate(
    block: tuple[Stream, ...],
    residents: int,
    *,
    barrier_cycles: int,
    jitter_cycles: int = 60,
    queue_cycles: int = 128,
    seeds: int = 3,
    policy: Policy = "greedy-then-oldest",
    charged: bool = True,
) -> Rate:
    """T(residents) of a loop whose iteration is `block`, and what its cycles go to.

    Cached by all arguments; the result is to be read only.

    Args:
        block: a stream for each role of the block.
        residents: blocks resident on the SM.
        barrier_cycles: from the last arrival at a barrier to its release.
        jitter_cycles: the longest random delay of a release beyond that.
        queue_cycles: the backlog of shared memory at which issue to it blocks.
        seeds: runs, each with random delays of its own, to average.
        policy: who issues among the warps that can. Greedy-then-oldest: the one that issued
            last, else the first resident. Round-robin: the next after the one that issued last.
        charged: whether to say what its cycles go to.

    Raises:
        ValueError: an argument out of range, a barrier that is never released, or roles that do
            not keep pace with each other.
    """
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; one run or more is needed")
    return _steady_rate(
        block, residents, barrier_cycles, jitter_cycles, queue_cycles, seeds, policy, charged
    )


@lru_cache(maxsize=4096)
def _steady_rate(
    block: tuple[Stream, ...],
    residents: int,
    barrier_cycles: int,
    jitter_cycles: int,
    queue_cycles: int,
    seeds: int,
    policy: Policy,
    charged: bool,
) -> Rate:
    """`steady_rate`, by position."""
    if not any(item.pipe == "barrier" for role in block for item in role.items):
        seeds = 1  # nothing is random
    demand = _demand(block, residents)
    issues = residents * sum(len(role.items) * role.warps_per_scheduler for role in block)
    iterations = max(_MEASURED, ceil(_MEASURED_ISSUES / max(issues, 1)))
    runs = [
        simulate(
            block,
            residents,
            _WARM_UP + iterations,
            barrier_cycles=barrier_cycles,
            jitter_cycles=jitter_cycles,
            queue_cycles=queue_cycles,
            seed=seed,
            policy=policy,
            keep_issues=charged and seed == 0,
        )
        for seed in range(seeds)
    ]
    periods = [_period(run, floor=max(demand.values(), default=0)) for run in runs]
    cycles = fmean(periods)
    charges = _charges(runs[0]) if charged else {}  # others' shares differ by less than T(r) does
    share = cycles / sum(charges.values()) if charges else 0.0
    return Rate(
        cycles=cycles,
        spread=max(periods) - min(periods),
        charges={cause: charged * share for cause, charged in charges.items()},
        utilisation={pipe: busy / cycles for pipe, busy in demand.items()},
        seeds=seeds,
        iterations=iterations,
    )


def mean_rate(rates: Sequence[Rate]) -> Rate:
    """The mean of rates of one loop under several policies."""
    cycles = fmean(rate.cycles for rate in rates)
    causes = dict.fromkeys(cause for rate in rates for cause in rate.charges)
    return Rate(
        cycles=cycles,
        spread=max(rate.cycles for rate in rates) - min(rate.cycles for rate in rates),
        charges={c: fmean(rate.charges.get(c, 0.0) for rate in rates) for c in causes},
        utilisation={
            pipe: busy * rates[0].cycles / cycles for pipe, busy in rates[0].utilisation.items()
        },
        seeds=sum(rate.seeds for rate in rates),
        iterations=rates[0].iterations,
    )


def trace(
    block: tuple[Stream, ...],
    residents: int,
    *,
    barrier_cycles: int,
    jitter_cycles: int = 60,
    queue_cycles: int = 128,
    seed: int = 0,
    policy: Policy = "greedy-then-oldest",
    iterations: int = 2,
) -> list[TraceEvent]:
    """The first iterations of the resident warps, issue by issue, in the order of issue.

    Raises:
        ValueError: as `steady_rate` does.
    """
    run = simulate(
        block,
        residents,
        iterations,
        barrier_cycles=barrier_cycles,
        jitter_cycles=jitter_cycles,
        queue_cycles=queue_cycles,
        seed=seed,
        policy=policy,
    )
    events = []
    for warp, (role, issues) in enumerate(zip(run.roles, run.issues, strict=True)):
        for number, issue in enumerate(issues[:-1]):
            ready, visible, accepted, issued, start, end, cause = issue
            item = role.items[number % len(role.items)]
            if issued > accepted:
                cause = "issue"
            elif accepted > visible:
                cause = item.pipe
            place = divmod(warp, run.warps_per_block)
            waited = issued - ready
            events.append(
                TraceEvent(*place, item.name, item.pipe, start, end, issued, waited, cause)
            )
    return sorted(events, key=lambda event: event.issued)


def _demand(block: tuple[Stream, ...], residents: int) -> dict[str, int]:
    """Cycles of each pipe, and issue slots, that an iteration of every resident block takes."""
    demand: Counter[str] = Counter()
    for role in block:
        for item in role.items:
            demand["issue"] += item.count * role.warps_per_scheduler * residents
            if item.pipe in SERVICE_PIPES:
                demand[item.pipe] += item.cycles * role.warps_per_scheduler * residents
    return demand


def _period(run: Run, floor: int) -> float:
    """The period of a run after its warm-up.

    Warps differ in where they stand as the run ends, so each has a pace of its own and the
    period follows from their sum. No steady period is shorter than `floor`, the cycles of the
    widest pipe.
    """
    done: dict[int, list[int]] = {}
    for role, completions in zip(run.roles, run.completions, strict=True):
        done.setdefault(id(role), []).append(len(completions))
    means = [fmean(iterations) for iterations in done.values()]
    if max(means) > 2 * min(means):
        raise ValueError(
            f"the roles run apart: iterations done are {', '.join(f'{mean:g}' for mean in means)}; "
            "barriers must hold the faster ones back"
        )
    return max(len(run.roles) / sum(map(_pace, run.completions)), floor)


def _charges(run: Run) -> Counter[str]:
    """Cycles of a run after its warm-up by cause, summed over blocks."""
    warps, width = len(run.roles), run.warps_per_block
    begin = sorted(chain.from_iterable(run.completions))[_WARM_UP * warps - 1]
    charges: Counter[str] = Counter()
    for first in range(0, warps, width):
        members = range(first, first + width)
        charges.update(
            charge_cycles([(run.roles[w].items, run.issues[w]) for w in members], begin, run.end)
        )
    return charges


def _pace(completions: list[int]) -> float:
    """Iterations of a warp a cycle, after its warm-up."""
    first = max(0, min(_WARM_UP, len(completions)) - 1)
    measured = len(completions) - 1 - first
    return measured / (completions[-1] - completions[first]) if measured > 0 else 0.0
