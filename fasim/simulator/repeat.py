"""Skips the part of a kernel that repeats itself.

Every time about one set of slots was issued, the state of the whole GPU is taken relative to
now. SMs are interchangeable: which SM is in a state does not matter, the order in which they
wake does. Two equal states begin equal futures, so all that passed between them is added as
often as it fits into the blocks that are left: exact to the tick.

Equal blocks stay in step and come back to a state with every wave. Blocks of several classes
meet in ever new ways: such kernels settle into a steady rate, and patterns are skipped at their
mean cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from fasim.simulator.gpu_state import GpuState, Transfer
from fasim.simulator.result import Repetition
from fasim.simulator.work import KernelWork

# Shorter kernels are simulated whole: there is little to win. Equal blocks come back to a state
# within two or three waves, mixed ones late if at all.
EXACT_WAVES = 12
UNIFORM_WAVES = 5
# Where in their course the last blocks start is chance after a skip at a mean cost. Measured, it
# is worth up to 0.35 waves, and 0.9 if blocks wait for DRAM in bursts: 0.3 % of so many.
SLOPE_WAVES = 128
BURST_WAVES = 320
BURST_SHARE = Fraction(1, 20)  # of the slots' time that is waiting, from which on this matters
# A kernel is steady when two windows on end cost the same within a margin. Measured against whole
# simulations of causal kernels of 96 to 1,150 waves: windows must be long enough for the mix of
# classes to average out, and the margin tight enough to see out a start in step, which fades
# over tens of waves. After so many windows the later half is taken, steady or not: it costs
# bounded time, and what is left of the drift is below 0.2 %.
WINDOW_BLOCKS = 1024  # a window has at least so many, and two looks
STEADY_MARGIN = 2000  # one part in so many
MOST_WINDOWS = 6


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """What had been done by some tick: blocks issued, progress, slot-ticks (`counts()`)."""

    now: int
    issued: int
    progress: int
    counts: list[int]


class Repeater:
    """Looks at a simulation from time to time, and moves it on once it repeats itself."""

    def __init__(self, work: KernelWork, gpu: GpuState) -> None:
        self.work = work
        self.gpu = gpu
        self.repetition: Repetition = "none"
        self.repeated_blocks = 0
        mixed = len(set(work.pattern)) > 1
        self.pattern_blocks = len(work.pattern) if mixed else 1  # a state is of one of them
        self.stride = -(-work.slots // self.pattern_blocks) * self.pattern_blocks
        self.window = max(2, -(-WINDOW_BLOCKS // self.stride))  # in looks
        self.most_looks = MOST_WINDOWS * self.window
        self.pattern_ticks = sum(kind.full_ticks[0] for kind in gpu.pattern)
        # Without loops to measure progress by, mixed blocks are simulated one by one.
        self.may_have_slope = mixed and self.pattern_ticks > 0 and work.waves >= SLOPE_WAVES
        self.seen: dict[tuple[int, ...], Moment] = {}
        self.moments: list[Moment] = []

    def look(self, now: int) -> int:
        """Skip if it is time to; return the count of issued blocks at which to look again."""
        gpu = self.gpu
        never = gpu.blocks + 1
        if self.work.waves < (UNIFORM_WAVES if self.pattern_blocks == 1 else EXACT_WAVES):
            return never
        for sm in gpu.sms:
            sm.advance(now)
        moment = Moment(now, gpu.issued, self._progress(), gpu.counts(now))
        before = self.seen.setdefault(self._state(now), moment)
        if before is not moment:
            self._skip_periods(before, moment)
            return never
        self.moments.append(moment)
        start = self._steady_since() if self._has_slope(moment) else None
        if start is not None:
            self._skip_patterns(start, moment)
            return never
        if len(self.moments) == self.most_looks:
            return never
        return (gpu.issued // self.stride + 1) * self.stride

    def _state(self, now: int) -> tuple[int, ...]:
        """All that the future depends on, relative to now, without the names of SMs and slots.

        The DRAM channel is busy for as long as the last transfer that some block awaits.
        """
        gpu = self.gpu
        state = [gpu.issued % self.pattern_blocks]
        for sm in sorted(gpu.sms, key=lambda sm: (sm.wake, sm.order)):
            state.append(len(sm.timers))
            for block in sm.computing:
                state += block.kind.index, block.chunk, block.units, *_ahead(block.transfer, now)
            for end, _, block in sorted(sm.timers):
                state += block.kind.index, block.chunk, block.phase, end - now
                state += max(block.held_until - now, 0), *_ahead(block.transfer, now)
        return tuple(state)

    def _has_slope(self, moment: Moment) -> bool:
        """Whether a skip at a mean cost leaves little enough to chance."""
        if not self.may_have_slope or self.work.waves >= BURST_WAVES:
            return self.may_have_slope
        first = self.moments[0]
        slot_ticks = self.work.slots * (moment.now - first.now)
        return moment.counts[0] - first.counts[0] <= BURST_SHARE * slot_ticks

    def _skip_periods(self, before: Moment, moment: Moment) -> None:
        """Repeat what passed between two equal states as often as it fits."""
        period = moment.issued - before.issued
        times = (self.gpu.blocks - moment.issued) // period
        if not times:
            return
        counts = [times * (b - a) for a, b in zip(before.counts, moment.counts, strict=True)]
        self.gpu.skip(times * period, times * (moment.now - before.now), counts)
        self.repetition = "exact"
        self.repeated_blocks = times * period

    def _steady_since(self) -> Moment | None:
        """The moment since when the kernel has run at one rate; None if it has not yet."""
        looks, window = self.moments, self.window
        if len(looks) == self.most_looks:
            return looks[len(looks) // 2]
        if len(looks) <= 2 * window:
            return None
        first, middle, last = looks[-1 - 2 * window], looks[-1 - window], looks[-1]
        # Ticks per progress, without dividing: a/b ≈ c/d where a·d ≈ c·b.
        before = (middle.now - first.now) * (last.progress - middle.progress)
        after = (last.now - middle.now) * (middle.progress - first.progress)
        return middle if abs(after - before) * STEADY_MARGIN <= before else None

    def _skip_patterns(self, before: Moment, moment: Moment) -> None:
        """Skip patterns at the mean cost of the progress made between two moments.

        Only slot-ticks are scaled; fixed phases are known. Time follows: slot-ticks over slots.
        """
        work, gpu, pattern = self.work, self.gpu, self.pattern_blocks
        keep = max(work.slots, pattern)  # simulated at the end, so that the tail is real
        times = (gpu.blocks - moment.issued - keep) // pattern
        if times <= 0:
            return
        done = moment.progress - before.progress
        counts = [
            times * self.pattern_ticks * (b - a) // done
            for a, b in zip(before.counts, moment.counts, strict=True)
        ]
        fixed = times * sum(kind.prologue_ticks + kind.epilogue_ticks for kind in gpu.pattern)
        ticks = -(-(fixed + sum(counts)) // work.slots)
        # Time is in whole ticks: the largest estimate takes the fraction, below a tick a slot.
        counts[counts.index(max(counts))] += ticks * work.slots - fixed - sum(counts)
        gpu.skip(times * pattern, ticks, counts)
        self.repetition = "slope"
        self.repeated_blocks = times * pattern

    def _progress(self) -> int:
        """Loop work done so far, in ticks of a full SM.

        A finer measure than the count of blocks: those in flight are counted in part.
        """
        gpu, kinds = self.gpu, self.gpu.pattern
        patterns, rest = divmod(gpu.issued, len(kinds))
        done = patterns * self.pattern_ticks
        done += sum(kind.full_ticks[0] for kind in kinds[:rest])
        for sm in gpu.sms:
            for block in sm.computing:
                kind = block.kind
                done -= block.units // kind.speeds[-1] + kind.full_ticks[block.chunk + 1]
            for _, _, block in sm.timers:
                # The next chunk is the first to be done: 0 in the prologue, none in the epilogue.
                ticks = block.kind.full_ticks
                done -= ticks[min(block.chunk + 1, len(ticks) - 1)]
        return done


def _ahead(transfer: Transfer, now: int) -> tuple[int, int]:
    """Ticks until a transfer is through, and whether more requests may still join it."""
    return max(transfer.end - now, 0), int(transfer.tick == now)
