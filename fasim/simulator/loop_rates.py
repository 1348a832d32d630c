"""T(r) of a kernel's main loop, for every number of resident blocks it can meet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from fasim.simulator.mechanisms import is_on
from fasim.simulator.sm_engine import Rate, mean_rate, steady_rate
from fasim.simulator.stream import Stream
from fasim.simulator.warp_scheduler import POLICIES
from fasim.simulator.work import Charges, LoopRate

if TYPE_CHECKING:
    from fasim.hardware import Gpu

# Beyond three resident blocks the widest pipe is full: one more adds its own share. The engine
# is not asked again, which keeps a kernel of sixteen small blocks as cheap as one of two.
SIMULATED_RESIDENTS = 3


def stream_rate(
    block: tuple[Stream, ...], residents: int, gpu: Gpu, *, charged: bool = True
) -> Rate:
    """T(residents) of a block's streams on an SM of `gpu`, the mean over issue policies.

    No policy is documented. Under each of them resident blocks can lock into a phase, both
    multiplying and then both exponentiating, or lock out of it, and a small change of one pipe
    can tip them over; they seldom tip under both at once.

    Args:
        charged: whether to say what its cycles go to.
    """
    alone = residents * sum(role.warps_per_scheduler for role in block) == 1
    rates = [
        steady_rate(
            block,
            residents,
            barrier_cycles=gpu.sm.barrier_cycles,
            policy=policy,
            charged=charged,
        )
        for policy in (POLICIES[:1] if alone else POLICIES)
    ]
    rate = mean_rate(rates)
    return rate if is_on("issue-order") else _widest_pipe(rate)


def stream_rates(block: tuple[Stream, ...], blocks_per_sm: int, gpu: Gpu) -> tuple[Rate, ...]:
    """T(1) … T(blocks_per_sm)."""
    simulated = min(blocks_per_sm, SIMULATED_RESIDENTS)
    rates = [stream_rate(block, residents, gpu) for residents in range(1, simulated + 1)]
    rates += [
        _in_proportion(rates[-1], residents / simulated)
        for residents in range(simulated + 1, blocks_per_sm + 1)
    ]
    return tuple(rates)


def loop_rate(periods: Iterable[Mapping[str, float]]) -> LoopRate:
    """Periods and charges in whole ticks: each edge between two causes is rounded once.

    Args:
        periods: for 1 … R resident blocks, the ticks of an iteration by cause.
    """
    ticks: list[int] = []
    charges: list[Charges] = []
    for causes in periods:
        edges, passed = [0], 0.0
        for share in causes.values():
            passed += share
            edges.append(max(edges[-1], round(passed)))
        edges[-1] = max(1, edges[-1])
        ticks.append(edges[-1])
        charges.append(
            tuple(
                (cause, end - start)
                for cause, start, end in zip(causes, edges, edges[1:], strict=False)
            )
        )
    return LoopRate(tuple(ticks), tuple(charges))


def _widest_pipe(rate: Rate) -> Rate:
    """The rate if every pipe overlapped every other: that of the busiest."""
    pipe = max(rate.utilisation, key=lambda name: rate.utilisation[name])
    share = rate.utilisation[pipe]
    return replace(
        rate,
        cycles=rate.cycles * share,
        charges={pipe: rate.cycles * share},
        utilisation={name: busy / share for name, busy in rate.utilisation.items()},
    )


def _in_proportion(rate: Rate, factor: float) -> Rate:
    """The rate of `factor` times as many blocks, the pipes being full."""
    return Rate(
        rate.cycles * factor,
        rate.spread * factor,
        {cause: cycles * factor for cause, cycles in rate.charges.items()},
        rate.utilisation,
        rate.seeds,
        rate.iterations,
    )
