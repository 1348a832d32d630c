"""Mixed blocks one by one, without an event for what concerns one SM alone.

The fast path for causal grids that are too short to repeat. The rules are those of
`gpu_simulation`, and so is the end, to the tick: an SM is looked at where it takes a block or
asks DRAM for bytes; the ends of loops in between change nothing elsewhere and are caught up with
on the way. Without SimPy, on plain lists, it takes about half the time.
"""

from __future__ import annotations

from heapq import heapify, heapreplace

from fasim.simulator.gpu_state import (
    EPILOGUE,
    NO_TRANSFER,
    PROLOGUE,
    WAIT,
    GpuState,
    Kind,
    Transfer,
)
from fasim.simulator.work import KernelWork

NEVER = 1 << 100
REMEMBERED = 6  # events of an SM that settle whose turn it is in a tick


def goes_at_its_own_pace(work: KernelWork, gpu: GpuState) -> bool:
    """Whether blocks are mixed, load their one loop in one go, and end in an epilogue of its own.

    An epilogue that takes no time, or waits for DRAM, would make the end of a loop an event for
    other SMs.
    """
    return (
        len(set(work.pattern)) > 1
        and len(gpu.rates) == 1
        and work.loop_chunks == 1
        and not any(kind.epilogue_service or not kind.epilogue_ticks for kind in gpu.pattern)
    )


class _Block:
    """A block on a slot: `end` of its fixed phase, or the `units` left of its loop."""

    __slots__ = ("end", "held_until", "kind", "order", "phase", "transfer", "units")

    def __init__(self, kind: Kind, end: int, held_until: int, transfer: Transfer, order: int):
        self.kind = kind
        self.end = end
        self.held_until = held_until
        self.transfer = transfer
        self.order = order
        self.units = 0
        self.phase = PROLOGUE


class _Sm:
    """The slots of one SM."""

    __slots__ = ("computing", "held", "last", "past")

    def __init__(self, now: int) -> None:
        self.held: list[_Block] = []  # in prologue or epilogue, or waiting for bytes
        self.computing: list[_Block] = []
        self.last = now  # tick up to which the loops have advanced
        self.past: tuple[int, ...] = (now,)  # ticks of its latest events, the last one first


class OwnPace:
    """A kernel whose SMs go at their own pace; `run` it once. It counts slot-ticks in `gpu`."""

    def __init__(self, work: KernelWork, gpu: GpuState) -> None:
        self.gpu = gpu
        self.blocks_per_sm = work.blocks_per_sm
        self.rate = gpu.rates[0]
        self.sms = [_Sm(work.launch_ticks) for _ in range(work.sm_count)]
        self.order = 0
        self.events = 0
        # Ticks of DRAM that all slots together can ask for at one time.
        services = [kind.prologue_service + sum(kind.chunk_service) for kind in gpu.pattern]
        self.most_joined = work.slots * max(services)

    def run(self) -> int:
        """Issues all blocks; the tick at which the last slot is free."""
        sms, now = self.sms, self.sms[0].last
        for _ in range(self.blocks_per_sm):
            for sm in sms:
                self._issue(sm, now)
        # Of SMs due in one tick, that comes first whose last event came first.
        queue = [(self._next_look(sm, now), sm.past, i, i) for i, sm in enumerate(sms)]
        heapify(queue)
        looks = len(sms)
        while queue[0][0] != NEVER:
            now, _, _, index = queue[0]
            sm = sms[index]
            self._move(sm, now)
            looks += 1
            heapreplace(queue, (self._next_look(sm, now), sm.past, looks, index))
        self.events = looks - len(sms)
        return now

    def _issue(self, sm: _Sm, now: int) -> None:
        """Puts the next block on a free slot."""
        gpu = self.gpu
        if gpu.issued == gpu.blocks:
            gpu.free_slots += 1
            gpu.free_since += now
            return
        kind = gpu.pattern[gpu.issued % len(gpu.pattern)]
        gpu.issued += 1
        held_until = end = now + kind.prologue_ticks
        transfer = NO_TRANSFER
        if kind.prologue_service:
            transfer = gpu.request(kind.prologue_service, now)
            end = max(end, now + kind.prologue_service)
        self.order += 1
        sm.held.append(_Block(kind, end, held_until, transfer, self.order))

    def _next_look(self, sm: _Sm, now: int) -> int:
        """Catches up with the ends of loops; the tick of the next other event, or `NEVER`.

        The end of a loop is another event if its bytes, asked for now, may come later still:
        what other SMs ask for in this tick joins them.
        """
        computing, held = sm.computing, sm.held
        speeds, walked = self.rate.speeds, self.rate.slot_ticks
        while True:
            look = NEVER
            for block in held:
                if block.end < look:
                    look = block.end
            resident = len(computing)
            if not resident:
                return look
            speed, last = speeds[resident], sm.last
            tick = look
            open_until = 0
            for block in computing:
                end = last - (-block.units // speed)  # rounded up
                if end < tick:
                    tick = end
                transfer = block.transfer
                if transfer.tick == now and transfer.end > open_until:
                    open_until = transfer.end
            if tick == look or (open_until and tick < open_until + self.most_joined):
                return tick
            passed = tick - last
            sm.last = tick
            sm.past = (tick, *sm.past[:REMEMBERED])
            walked[resident] += passed * resident
            for block in computing[:]:
                block.units -= passed * speed
                if block.units <= 0:
                    self._end_loop(sm, block, tick)

    def _end_loop(self, sm: _Sm, block: _Block, now: int) -> None:
        """Waits for the loop's bytes if they are late, then begins the epilogue."""
        sm.computing.remove(block)
        self.order += 1
        block.order = self.order
        if block.transfer.end > now:
            block.phase = WAIT
            block.held_until, block.end = now, block.transfer.end
        else:
            block.phase = EPILOGUE
            block.held_until = block.end = now + block.kind.epilogue_ticks
        sm.held.append(block)

    def _move(self, sm: _Sm, now: int) -> None:
        """Moves an SM on to `now` and its blocks whose phase ends there."""
        computing, held = sm.computing, sm.held
        resident, passed = len(computing), now - sm.last
        sm.last = now
        sm.past = (now, *sm.past[:REMEMBERED])
        if resident:
            speed = self.rate.speeds[resident]
            self.rate.slot_ticks[resident] += passed * resident
            for block in computing[:]:
                block.units -= passed * speed
                if block.units <= 0:
                    self._end_loop(sm, block, now)
        while True:
            due = None
            for block in held:
                if block.end <= now and (due is None or block.order < due.order):
                    due = block
            if due is None:
                return
            if due.transfer.end > now:  # not before its tick was over did it show
                due.end = due.transfer.end
                self.order += 1
                due.order = self.order
                continue
            held.remove(due)
            self.gpu.wait_ticks += now - due.held_until
            if due.phase == EPILOGUE:
                self._issue(sm, now)
            elif due.phase == WAIT or not due.kind.chunk_units:
                due.phase = EPILOGUE
                self.order += 1
                due.order = self.order
                due.held_until = due.end = now + due.kind.epilogue_ticks
                held.append(due)
            else:
                kind = due.kind
                due.units = kind.chunk_units[0]
                if kind.chunk_service[0]:
                    due.transfer = self.gpu.request(kind.chunk_service[0], now)
                computing.append(due)
