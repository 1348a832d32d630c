"""Skips the part of a kernel that repeats itself.

Every time about one set of slots was issued, the state of the whole GPU is taken relative to
now. SMs are interchangeable: which SM is in a state does not matter, the order in which they
wake does. Two equal states begin equal futures, so all that passed between them is added as
often as it fits into the blocks that are left: exact to the tick.

Equal blocks stay in step and come back to a state within a wave or two. Blocks of several
classes meet in ever new ways: such kernels settle into a steady rate, and patterns are skipped
at their mean cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from fasim.simulator.gpu_state import Block, GpuState
from fasim.simulator.result import Repetition
from fasim.simulator.work import KernelWork

EXACT_WAVES = 12  # shorter kernels are simulated whole: there is little to win
# Where in their course the last blocks start is chance after a skip at a mean cost; it is
# worth up to a third of a wave, and so at most 0.3 % of this many.
SLOPE_WAVES = 96


@dataclass(frozen=True, slots=True)
class Steadiness:
    """When a kernel counts as steady: two windows on end cost the same within a margin.

    Source: measured against whole simulations of kernels of 96 to 600 waves. Blocks of several
    classes need long windows, in which the mix averages out. For equal blocks the margin must
    be tight: they approach their rate slowly, a little with every wave.
    """

    window_blocks: int  # at least so many, and two looks
    margin: Fraction
    most_looks: int  # then the later half of all looks is the window, steady or not


UNIFORM = Steadiness(512, Fraction(3, 10_000), 60)
MIXED = Steadiness(1024, Fraction(1, 100), 24)


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
        uniform = len(set(work.pattern)) == 1
        # Blocks of one class repeat from any block on; a set of slots is their pattern.
        self.pattern_blocks = work.slots if uniform else len(work.pattern)
        self.phase_blocks = 1 if uniform else len(work.pattern)
        self.stride = -(-work.slots // self.pattern_blocks) * self.pattern_blocks
        self.steadiness = UNIFORM if uniform else MIXED
        self.window = max(2, -(-self.steadiness.window_blocks // self.stride))
        self.pattern_ticks = sum(
            gpu.pattern[block % len(gpu.pattern)].full_ticks[0]
            for block in range(self.pattern_blocks)
        )
        self.seen: dict[tuple[int, ...], Moment] = {}
        self.moments: list[Moment] = []

    def look(self, now: int) -> int:
        """Skip if it is time to; return the count of issued blocks at which to look again."""
        gpu = self.gpu
        never = gpu.blocks + 1
        if self.work.waves < EXACT_WAVES:
            return never
        for sm in gpu.sms:
            sm.advance(now)
        moment = Moment(now, gpu.issued, self._progress(), gpu.counts())
        before = self.seen.setdefault(self._state(now), moment)
        if before is not moment:
            self._skip_periods(before, moment)
            return never
        self.moments.append(moment)
        if self.work.waves >= SLOPE_WAVES:
            start = self._steady_since()
            if start is not None:
                self._skip_patterns(start, moment)
                return never
        return (gpu.issued // self.stride + 1) * self.stride

    def _state(self, now: int) -> tuple[int, ...]:
        """All that the future depends on, relative to now, without the names of SMs and slots."""
        gpu = self.gpu
        asked_now = int(gpu.transfer.tick == now)  # and may be joined by others
        state = [gpu.issued % self.phase_blocks, max(gpu.transfer.end - now, 0), asked_now]
        for sm in sorted(gpu.sms, key=lambda sm: (sm.wake, sm.order)):
            state += sm.wake - now, len(sm.timers)
            for block in sm.computing:
                state += block.kind.index, block.chunk, block.units
                state += self._due(block, now)
            for end, _, block in sorted(sm.timers):
                state += block.kind.index, block.chunk, block.phase, end - now
                state += self._due(block, now)
        return tuple(state)

    def _due(self, block: Block, now: int) -> tuple[int, int]:
        """Ticks until a block's transfer is through, and whether others may still join it."""
        return max(block.transfer.end - now, 0), int(block.transfer.tick == now)

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
        if len(looks) == max(self.steadiness.most_looks, 2 * window + 2):
            return looks[len(looks) // 2]
        if len(looks) <= 2 * window:
            return None
        first, middle, last = looks[-1 - 2 * window], looks[-1 - window], looks[-1]
        # Ticks per progress, without dividing: a/b ≈ c/d where a·d ≈ c·b.
        before = (middle.now - first.now) * (last.progress - middle.progress)
        after = (last.now - middle.now) * (middle.progress - first.progress)
        return middle if abs(after - before) <= self.steadiness.margin * before else None

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
            times * (self.pattern_ticks or pattern) * (b - a) // done
            for a, b in zip(before.counts, moment.counts, strict=True)
        ]
        kinds = [gpu.pattern[block % len(gpu.pattern)] for block in range(pattern)]
        fixed = times * sum(kind.prologue_ticks + kind.epilogue_ticks for kind in kinds)
        ticks = -(-(fixed + sum(counts)) // work.slots)
        # Time is in whole ticks: the largest estimate takes the fraction, below a tick a slot.
        counts[counts.index(max(counts))] += ticks * work.slots - fixed - sum(counts)
        gpu.skip(times * pattern, ticks, counts)
        self.repetition = "slope"
        self.repeated_blocks = times * pattern

    def _progress(self) -> int:
        """Loop work done so far, in ticks of a full SM; blocks issued if there are no loops.

        A finer measure than the count of blocks: those in flight are counted in part.
        """
        gpu, kinds = self.gpu, self.gpu.pattern
        if not self.pattern_ticks:
            return gpu.issued
        patterns, rest = divmod(gpu.issued, len(kinds))
        done = patterns * sum(kind.full_ticks[0] for kind in kinds)
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
