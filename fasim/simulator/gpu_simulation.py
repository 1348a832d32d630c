"""The blocks of a kernel on the SM slots of a GPU, event by event, in SimPy.

One process per SM holds that SM's slots and sleeps until the next thing that happens on them.
SMs meet in two places only: the counter that issues blocks, and the DRAM channel, which knows
until when it is busy. Both answer at once, so no SM ever wakes another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable
from heapq import heappop, heappush

from simpy import Environment
from simpy.events import Timeout

from fasim.simulator.gpu_state import (
    EPILOGUE,
    LOOP,
    PHASES,
    PROLOGUE,
    WAIT,
    Block,
    GpuState,
    Sm,
)
from fasim.simulator.own_pace import OwnPace, goes_at_its_own_pace
from fasim.simulator.repeat import EXACT_WAVES, Repeater
from fasim.simulator.result import ChainResult, KernelResult
from fasim.simulator.timeline import Skip, Span, Timeline
from fasim.simulator.work import KernelWork, add_along, add_charges


def simulate(work: KernelWork, *, repeat: bool = True, timeline: bool = False) -> KernelResult:
    """Run one kernel.

    Args:
        repeat: skip blocks once the kernel repeats itself; the result's `repetition` says
            how. `exact` ends on the same tick as without, `slope` within about 0.3 %. Off,
            every block is simulated: the reference.
        timeline: record the spans of every simulated block.
    """
    return GpuSimulation(work, repeat=repeat, timeline=timeline).run()


def simulate_chain(
    works: Iterable[KernelWork], *, repeat: bool = True, timeline: bool = False
) -> ChainResult:
    """Run kernels one after another, each on a GPU that the one before has left."""
    return ChainResult(tuple(simulate(work, repeat=repeat, timeline=timeline) for work in works))


class GpuSimulation:
    """One kernel under way; `run` it once."""

    def __init__(self, work: KernelWork, *, repeat: bool, timeline: bool) -> None:
        self.work = work
        self.gpu = GpuState(work)
        self.repeater = Repeater(work, self.gpu) if repeat else None
        self.look_at = work.blocks + 1  # the count of issued blocks at which to look back
        self.timeline = Timeline() if timeline else None
        self.events = 0

    def run(self) -> KernelResult:
        """Issue all blocks, wait for the last one, and say where the slots' time went."""
        if self.repeater is not None and self.timeline is None and self._goes_at_its_own_pace():
            fast = OwnPace(self.work, self.gpu)
            ticks = fast.run()
            self.events = fast.events
            return self._result(ticks)
        return self._event_by_event()

    def _goes_at_its_own_pace(self) -> bool:
        """Whether a grid is too short to repeat, yet long enough for the fast path to matter."""
        assert self.repeater is not None
        waves = self.work.waves >= EXACT_WAVES and not self.repeater.may_have_slope
        return waves and goes_at_its_own_pace(self.work, self.gpu)

    def _event_by_event(self) -> KernelResult:
        gpu, start = self.gpu, self.work.launch_ticks
        env = Environment(initial_time=start)
        for slot in range(self.work.blocks_per_sm):
            for sm in gpu.sms:
                self._start_block(sm, Block(slot), start)
        for sm in gpu.sms:
            if sm.timers:
                sm.wake = sm.next_event(start)
                sm.order = gpu.next_order()
                env.process(self._sm_process(env, sm))
                self.events += 2  # a process begins and ends with one
        self._look_back(start)
        env.run()
        return self._result(int(env.now) + gpu.skipped_ticks)

    def _sm_process(self, env: Environment, sm: Sm) -> Generator[Timeout, None, None]:
        gpu, timers, computing = self.gpu, sm.timers, sm.computing
        now = self.work.launch_ticks
        while timers or computing:
            self.events += 1
            yield Timeout(env, sm.wake - now)
            now = sm.wake
            sm.advance(now)
            for block in computing[:]:
                if block.units <= 0:
                    self._end_chunk(sm, block, now)
            while timers and timers[0][0] <= now:
                self._end_hold(sm, heappop(timers)[2], now)
            sm.wake = sm.next_event(now)
            sm.order = gpu.order = gpu.order + 1
            if gpu.issued >= self.look_at:
                self._look_back(now)

    def _start_block(self, sm: Sm, block: Block, now: int) -> None:
        """Put the next block of the grid on this slot, if there is one."""
        gpu = self.gpu
        issued = gpu.issued
        if issued == gpu.blocks:
            gpu.free_slots += 1
            gpu.free_since += now + gpu.skipped_ticks
            return
        gpu.issued = issued + 1
        block.block_id = issued
        block.kind = kind = gpu.pattern[issued % len(gpu.pattern)]
        block.chunk = -1
        block.since = now
        self._hold(sm, block, PROLOGUE, now, kind.prologue_ticks, kind.prologue_service)

    def _start_loop(self, sm: Sm, block: Block, now: int) -> None:
        """Compute the next chunk, after the prologue or a wait for the chunk before."""
        block.phase = LOOP
        block.units = 0
        sm.computing.append(block)
        self._end_chunk(sm, block, now)

    def _end_chunk(self, sm: Sm, block: Block, now: int) -> None:
        """Begin the next chunk, unless bytes of the one just computed are still on their way.

        Bytes are requested as their chunk begins and needed by its end: loads run ahead of
        the compute by a chunk at most. What a chunk did past its end counts for the next.
        """
        gpu, kind = self.gpu, block.kind
        while block.units <= 0:
            if block.transfer.end > now:
                sm.computing.remove(block)
                self._record(sm, block, "loop", now)
                block.phase = WAIT
                block.held_until = now
                self._set_timer(sm, block, block.transfer.end)
                return
            chunk = block.chunk = block.chunk + 1
            if chunk == len(kind.chunk_units):
                sm.computing.remove(block)
                self._record(sm, block, "loop", now)
                self._hold(sm, block, EPILOGUE, now, kind.epilogue_ticks, kind.epilogue_service)
                return
            block.units += kind.chunk_units[chunk]
            if kind.chunk_service[chunk]:
                block.transfer = gpu.request(kind.chunk_service[chunk], now)

    def _hold(self, sm: Sm, block: Block, phase: int, now: int, ticks: int, service: int) -> None:
        """Keep the block for `ticks`, and until a transfer requested now is through.

        When that is shows once this tick is over, but not before its own service.
        """
        block.phase = phase
        block.held_until = end = now + ticks
        if service:
            block.transfer = self.gpu.request(service, now)
        self._set_timer(sm, block, max(end, now + service))

    def _end_hold(self, sm: Sm, block: Block, now: int) -> None:
        """Move the block on, unless its transfer is still under way."""
        if block.transfer.end > now:
            self._set_timer(sm, block, block.transfer.end)
            return
        self.gpu.wait_ticks += now - block.held_until
        if self.timeline is not None:
            self._record(sm, block, PHASES[block.phase], block.held_until)
            self._record(sm, block, "dram", now)
        kind = block.kind
        if block.phase == EPILOGUE:
            self._start_block(sm, block, now)
        elif block.phase == PROLOGUE and not kind.chunk_units:
            self._hold(sm, block, EPILOGUE, now, kind.epilogue_ticks, kind.epilogue_service)
        else:
            self._start_loop(sm, block, now)

    def _set_timer(self, sm: Sm, block: Block, end: int) -> None:
        self.gpu.order = order = self.gpu.order + 1
        heappush(sm.timers, (end, order, block))

    def _look_back(self, now: int) -> None:
        if self.repeater is None:
            return
        skipped = self.gpu.skipped_ticks
        self.look_at = self.repeater.look(now)
        if self.timeline is not None and self.repeater.repeated_blocks:
            end = now + self.gpu.skipped_ticks
            self.timeline.skips.append(Skip(self.repeater.repeated_blocks, now + skipped, end))

    def _record(self, sm: Sm, block: Block, phase: str, end: int) -> None:
        if self.timeline is None or end == block.since:
            return
        skipped = self.gpu.skipped_ticks
        start, block.since = block.since + skipped, end
        self.timeline.spans.append(
            Span(sm.index, block.slot, block.block_id, block.kind.name, phase, start, end + skipped)
        )

    def _result(self, ticks: int) -> KernelResult:
        work, gpu = self.work, self.gpu
        slot_ticks: dict[str, int] = {}
        dram_bytes = {"prologue": 0, "loop": 0, "epilogue": 0}
        add_charges(slot_ticks, (("launch", work.launch_ticks),), work.slots)
        for index, times in sorted(Counter(work.pattern).items()):
            block_class = work.classes[index]
            blocks = times * work.repeats
            add_charges(slot_ticks, block_class.prologue, blocks)
            add_charges(slot_ticks, block_class.epilogue, blocks)
            dram_bytes["prologue"] += blocks * block_class.prologue_dram_bytes
            dram_bytes["loop"] += blocks * block_class.loop_dram_bytes
            dram_bytes["epilogue"] += blocks * block_class.epilogue_dram_bytes
        for rate in gpu.rates:
            for charges, walked in zip(rate.loop.charges, rate.slot_ticks[1:], strict=False):
                add_along(slot_ticks, charges, walked)
        add_charges(slot_ticks, (("dram", gpu.wait_ticks),))
        add_charges(slot_ticks, (("tail", gpu.free_slots * ticks - gpu.free_since),))
        charged = sum(slot_ticks.values())
        if charged != work.slots * ticks:
            raise AssertionError(
                f"{work.name!r}: {charged} ticks charged to {work.slots} slots of {ticks} ticks"
            )
        return KernelResult(
            name=work.name,
            ticks=ticks,
            slots=work.slots,
            slot_ticks=slot_ticks,
            blocks=work.blocks,
            repetition=self.repeater.repetition if self.repeater else "none",
            repeated_blocks=self.repeater.repeated_blocks if self.repeater else 0,
            events=self.events,
            dram_bytes=dram_bytes,
            timeline=self.timeline,
        )
