"""The least a kernel takes, by its work alone: what is sure to be slower need not be simulated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from fasim.simulator.work import TICKS_PER_SECOND, TRIP_UNITS, BlockClass, KernelWork, ticks_of

# Of a bound, what is sure: floats round, and waves of mixed blocks may be skipped at a mean cost,
# which is good to 0.3 %.
UNIFORM_BOUND, MIXED_BOUND = 1 - 1e-9, 0.99
PRICES = 4  # of a slot's tick that are tried, besides none

Share = Mapping[BlockClass, float]
"""Blocks of each class that one SM gets."""


def least_ticks(work: KernelWork) -> int:
    """No simulation of `work` takes less: the SM that has most to do, or DRAM, never waiting."""
    counts = Counter(work.pattern)
    # Of equal blocks some SM gets a whole number, of others at least the mean work.
    mixed = len(counts) > 1
    share = {work.classes[i]: n * work.repeats / work.sm_count for i, n in counts.items()}
    if not mixed:
        share = dict.fromkeys(share, -(-work.blocks // work.sm_count))
    moved = sum(n * _dram_bytes(work.classes[i]) for i, n in counts.items()) * work.repeats
    dram = moved * TICKS_PER_SECOND / work.dram_bandwidth_bytes_per_s
    least = max(dram, _in_a_row(share), _overlapped(share, work.blocks_per_sm))
    return work.launch_ticks + int(least * (MIXED_BOUND if mixed else UNIFORM_BOUND))


def _in_a_row(share: Share) -> float:
    """One prologue, every loop of the SM at the best rate there is, one epilogue."""
    looping = [kind for kind in share if kind.trips] or list(share)
    begin = min(ticks_of(kind.prologue) for kind in looping)
    end = min(ticks_of(kind.epilogue) for kind in looping)
    return begin + _loop_ticks(share) + end


def _overlapped(share: Share, slots: int) -> float:
    """Prologues and epilogues beside loops, as far as the slots of the SM allow.

    A slot in one of them computes nothing, and fewer blocks together compute more slowly. The
    time that each number of blocks computes is a linear program. By its dual, the ticks of slots
    at any price, and loops at what that price leaves of a tick, are a bound.
    """
    fixed = sum(
        n * (ticks_of(kind.prologue) + ticks_of(kind.epilogue)) for kind, n in share.items()
    )
    prices = [step / (PRICES * slots) for step in range(PRICES + 1)]
    return max(
        price * fixed
        + _loop_ticks(share, [1 - price * (slots - blocks) for blocks in range(1, slots + 1)])
        for price in prices
    )


def _loop_ticks(share: Share, left: Sequence[float] | None = None) -> float:
    """Loops at their cheapest, where a tick of r blocks costs the r-th of `left`; 1 by default."""
    ticks = 0.0
    for kind, blocks in share.items():
        if kind.loop:
            costs = left or [1.0] * len(kind.loop.period_ticks)
            rates = zip(kind.loop.period_ticks, costs, strict=False)
            best = min(period * cost / r for r, (period, cost) in enumerate(rates, start=1))
            ticks += blocks * kind.trips / TRIP_UNITS * best
    return ticks


def _dram_bytes(kind: BlockClass) -> int:
    return kind.prologue_dram_bytes + kind.loop_dram_bytes + kind.epilogue_dram_bytes
