"""The state of a GPU under one kernel: blocks on SM slots, the issue counter, the DRAM channel.

Plain mutable data, in whole ticks. `gpu_simulation` moves it, `repeat` compares and skips it.
"""

from __future__ import annotations

import math

from fasim.simulator.work import (
    TRIP_UNITS,
    BlockClass,
    KernelWork,
    LoopRate,
    split_evenly,
    ticks_of,
)

PHASES = ("prologue", "loop", "dram", "epilogue")
PROLOGUE, LOOP, WAIT, EPILOGUE = range(4)  # a block in WAIT lacks bytes of its loop


class Rate:
    """A loop rate in units of work that every T(r) divides, so that nothing is rounded.

    `speeds[r]` is the units a block does per tick while r compute. `slot_ticks[r]` counts the
    ticks that slots spent so, for all blocks of the kernel: charges are laid along that one
    long walk, as a walk for each block would favour what an iteration begins with.
    """

    __slots__ = ("iteration_units", "loop", "slot_ticks", "speeds")

    def __init__(self, loop: LoopRate, blocks_per_sm: int) -> None:
        periods = loop.period_ticks[:blocks_per_sm]
        self.loop = loop
        self.iteration_units = TRIP_UNITS * math.lcm(*periods)
        self.speeds = [0] + [self.iteration_units // period for period in periods]
        self.slot_ticks = [0] * len(self.speeds)


class Kind:
    """A block class in ticks: fixed phases, DRAM service times, units of work per chunk.

    `full_ticks[i]` is what the loop takes from chunk i on while the SM's slots all compute.
    """

    __slots__ = (
        "chunk_service",
        "chunk_units",
        "epilogue_service",
        "epilogue_ticks",
        "full_ticks",
        "index",
        "name",
        "prologue_service",
        "prologue_ticks",
        "slot_ticks",
        "speeds",
    )

    def __init__(
        self, index: int, block_class: BlockClass, rate: Rate | None, work: KernelWork
    ) -> None:
        self.index = index
        self.name = block_class.name
        self.prologue_ticks = ticks_of(block_class.prologue)
        self.prologue_service = work.dram_ticks(block_class.prologue_dram_bytes)
        self.epilogue_ticks = ticks_of(block_class.epilogue)
        self.epilogue_service = work.dram_ticks(block_class.epilogue_dram_bytes)
        self.speeds = rate.speeds if rate else [0]
        self.slot_ticks = rate.slot_ticks if rate else [0]
        self.chunk_service: list[int] = []
        self.chunk_units: list[int] = []
        if rate and block_class.trips:
            chunks = work.loop_chunks if block_class.loop_dram_bytes else 1
            loads = split_evenly(block_class.loop_dram_bytes, chunks)
            self.chunk_service = [work.dram_ticks(transfer_bytes) for transfer_bytes in loads]
            units = block_class.trips * rate.iteration_units // TRIP_UNITS
            self.chunk_units = split_evenly(units, chunks)
        self.full_ticks = [
            sum(self.chunk_units[chunk:]) // self.speeds[-1]
            for chunk in range(len(self.chunk_units))
        ] + [0]


class Transfer:
    """What was asked of DRAM in one tick; it arrives together, at `end`.

    Memory interleaves the requests it holds: what many SMs ask for at once reaches none of
    them first. Blocks of a wave that start together so stay together, as the write bursts of
    GEMMs were measured to do; a queue of whole requests would spread them out. Only once its
    tick is over is `end` known.
    """

    __slots__ = ("end", "tick")

    def __init__(self, tick: int, end: int) -> None:
        self.tick = tick
        self.end = end


NO_TRANSFER = Transfer(-1, 0)


class Block:
    """A block on a slot; the object stays when the next block of the grid takes the slot."""

    __slots__ = (
        "block_id",
        "chunk",
        "held_until",
        "kind",
        "phase",
        "since",
        "slot",
        "transfer",
        "units",
    )

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.block_id = 0
        self.kind: Kind
        self.phase = PROLOGUE
        self.chunk = 0
        self.units = 0  # of work left in this chunk
        self.transfer = NO_TRANSFER  # what the phase or the chunk waits for at its end
        self.held_until = 0  # tick at which a fixed phase ends; from then on it waits for bytes
        self.since = 0  # tick up to which the timeline has this block


class Sm:
    """The slots of one SM: blocks that wait for a tick, and blocks that share the pipes."""

    __slots__ = ("computing", "index", "last", "order", "timers", "wake")

    def __init__(self, index: int, now: int) -> None:
        self.index = index
        self.timers: list[tuple[int, int, Block]] = []  # heap of (tick, order, block)
        self.computing: list[Block] = []
        self.last = now  # tick up to which the computing blocks have advanced
        self.wake = now  # tick of the next event, and its place among those of that tick
        self.order = 0

    def advance(self, now: int) -> None:
        """Give the computing blocks the ticks that have passed."""
        ticks = now - self.last
        self.last = now
        if ticks:
            computing = len(self.computing)
            for block in self.computing:
                kind = block.kind
                block.units -= ticks * kind.speeds[computing]
                kind.slot_ticks[computing] += ticks

    def next_event(self, now: int) -> int:
        """The tick of the next event here, -1 if none. Finishing times are rounded up."""
        tick = self.timers[0][0] if self.timers else -1
        computing = len(self.computing)
        for block in self.computing:
            end = now - (-block.units // block.kind.speeds[computing])
            if end < tick or tick < 0:
                tick = end
        return tick


class GpuState:
    """The SMs, and the two things they share. Ticks count from the launch, skips left out."""

    __slots__ = (
        "blocks",
        "free_since",
        "free_slots",
        "issued",
        "order",
        "pattern",
        "rates",
        "skipped_ticks",
        "sms",
        "transfer",
        "wait_ticks",
    )

    def __init__(self, work: KernelWork) -> None:
        rates: dict[LoopRate, Rate] = {}
        kinds: dict[int, Kind] = {}
        for index in sorted(set(work.pattern)):
            block_class = work.classes[index]
            loop = block_class.loop
            if loop and loop not in rates:
                rates[loop] = Rate(loop, work.blocks_per_sm)
            kinds[index] = Kind(index, block_class, rates[loop] if loop else None, work)
        self.rates = list(rates.values())
        self.pattern = [kinds[index] for index in work.pattern]
        self.blocks = work.blocks
        self.sms = [Sm(index, work.launch_ticks) for index in range(work.sm_count)]
        self.issued = 0
        self.transfer = NO_TRANSFER  # the last on the DRAM channel: busy until its end
        self.order = 0  # of timers and wake-ups: ties are settled as they were made
        self.wait_ticks = 0  # of slots for DRAM, counted as the wait ends
        self.free_slots = 0  # slots with no further block, and the sum of since when
        self.free_since = 0
        self.skipped_ticks = 0

    def next_order(self) -> int:
        """A number above all before."""
        self.order += 1
        return self.order

    def request(self, service: int, now: int) -> Transfer:
        """Put `service` ticks on the DRAM channel: behind earlier ticks', among this one's."""
        transfer = self.transfer
        if transfer.tick == now:
            transfer.end += service
        else:
            start = transfer.end if transfer.end > now else now
            self.transfer = transfer = Transfer(now, start + service)
        return transfer

    def counts(self, now: int) -> list[int]:
        """Slot-ticks that only simulation tells: waits for DRAM, then each rate's by r.

        Counted up to now on SMs that have advanced to now; waits under way are counted in part.
        """
        waiting = sum(
            now - block.held_until
            for sm in self.sms
            for _, _, block in sm.timers
            if block.held_until < now
        )
        return [
            self.wait_ticks + waiting,
            *(ticks for rate in self.rates for ticks in rate.slot_ticks),
        ]

    def skip(self, blocks: int, ticks: int, counts: list[int]) -> None:
        """Move on as if `blocks` had come and gone in `ticks`; nothing changes relative to now.

        Args:
            counts: what to add to `counts()`.
        """
        self.issued += blocks
        self.skipped_ticks += ticks
        self.wait_ticks += counts[0]
        added = iter(counts[1:])
        for rate in self.rates:
            for computing in range(len(rate.slot_ticks)):
                rate.slot_ticks[computing] += next(added)
        for sm in self.sms:
            for block in sm.computing:
                block.block_id += blocks
            for _, _, block in sm.timers:
                block.block_id += blocks
