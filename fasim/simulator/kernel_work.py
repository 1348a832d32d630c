"""From a recorded kernel to the work the GPU simulation runs: rates, phases, blocks in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fasim.problem import DTYPE_BYTES, Scenario
from fasim.readings.traffic import Level, total
from fasim.schedules.record import Loop, Op, Record
from fasim.schedules.residency import Residency as BlockResidency
from fasim.schedules.visits import Span, Visit, spans, visit
from fasim.simulator.clock import sm_clock_hz
from fasim.simulator.lowering import LoopStream, lower, main_loop
from fasim.simulator.memory import MemoryTraffic, Residency
from fasim.simulator.sm_engine import Rate, steady_rate
from fasim.simulator.streaming import block_cycles
from fasim.simulator.work import (
    TICKS_PER_SECOND,
    TRIP_UNITS,
    BlockClass,
    Charges,
    KernelWork,
    LoopRate,
)

if TYPE_CHECKING:
    from fasim.hardware import Gpu

# From a block's start to its first load: parameters, addresses, barrier set-up.
BLOCK_START_CYCLES = 300
# From the last product to the first store: scaling, rounding, staging through shared memory.
BLOCK_END_CYCLES = 500


@dataclass(frozen=True)
class LoweredKernel:
    """A kernel ready to simulate, and what its simulation rests on.

    Attributes:
        rates: T(r) by resident blocks; empty for a streaming kernel.
        stream: what a warp issues in an iteration; None for a streaming kernel.
    """

    work: KernelWork
    rates: tuple[Rate, ...]
    stream: LoopStream | None
    clock_hz: float


def kernel_work(
    record: Record,
    gpu: Gpu,
    scenario: Scenario,
    occupancy: BlockResidency,
    memory: MemoryTraffic,
    resident: Residency,
) -> LoweredKernel:
    """Lowers a kernel's main loop, finds its rate, and lays out its blocks."""
    return _Builder(record, gpu, scenario, occupancy, memory, resident).build()


class _Builder:
    def __init__(
        self,
        record: Record,
        gpu: Gpu,
        scenario: Scenario,
        occupancy: BlockResidency,
        memory: MemoryTraffic,
        resident: Residency,
    ) -> None:
        self.record, self.kernel, self.gpu = record, record.kernel, gpu
        self.scenario, self.memory, self.resident = scenario, memory, resident
        self.blocks_per_sm = occupancy.blocks_per_sm
        self.path = main_loop(record)

    def build(self) -> LoweredKernel:
        sustained = self.scenario.run_length == "sustained"
        if self.path:
            stream = lower(self.record, self.gpu, self.path)
            plain = self._rates(stream, masked=False)
            masked_cost = 1.0
            if self.kernel.problem.causal:
                masked = self._rate(stream, self._residents(), masked=True)
                masked_cost = masked.cycles / plain[self._residents() - 1].cycles
            utilisation = plain[self._residents() - 1].utilisation
            clock = sm_clock_hz(self.gpu, utilisation, sustained)
            rate = _loop_rate([(r.cycles, r.charges) for r in plain], clock)
        else:
            stream, plain, masked_cost = None, [], 1.0
            cycles = block_cycles(self.record, self.gpu)
            clock = sm_clock_hz(self.gpu, {}, sustained)
            rate = _loop_rate(
                [
                    (r * cycles.cycles, {cycles.cause: r * cycles.cycles})
                    for r in range(1, self.blocks_per_sm + 1)
                ],
                clock,
            )
        self.ticks_per_cycle = TICKS_PER_SECOND / clock
        work = self._lay_out(rate, masked_cost)
        return LoweredKernel(work, tuple(plain), stream, clock)

    # Rates.

    def _residents(self) -> int:
        """Blocks an SM holds, or fewer if the grid does not fill it."""
        return max(1, min(self.blocks_per_sm, -(-self.kernel.blocks // self.gpu.sm_count)))

    def _rate(self, stream: LoopStream, residents: int, *, masked: bool) -> Rate:
        block = (stream.masked if masked else stream.plain,)
        return steady_rate(block, residents, barrier_cycles=round(self.gpu.sm.barrier_cycles))

    def _rates(self, stream: LoopStream, *, masked: bool) -> list[Rate]:
        """T(1) … T(R). Beyond three the pipes are full: one more block adds its own share."""
        rates = [
            self._rate(stream, r, masked=masked) for r in range(1, min(self.blocks_per_sm, 3) + 1)
        ]
        while len(rates) < self.blocks_per_sm:
            rates.append(_scaled(rates[2], len(rates) + 1))
        return rates

    # Blocks.

    def _lay_out(self, rate: LoopRate, masked_cost: float) -> KernelWork:
        trips, repeats = self._trips()
        shared = self._shares()
        prologue, epilogue = self._prologue(), self._epilogue()
        kinds = sorted(set(trips))
        mean = sum(plain + masked for plain, masked in trips) / len(trips)
        classes = []
        for plain, masked in kinds:
            share = (plain + masked) / mean if mean else 0.0
            length = plain * TRIP_UNITS + round(masked * masked_cost * TRIP_UNITS)
            classes.append(
                BlockClass(
                    name=f"{plain}+{masked} iterations" if masked else f"{plain} iterations",
                    prologue=prologue if length else _charges([("launch", BLOCK_START_CYCLES)], self.ticks_per_cycle),
                    prologue_dram_bytes=round(shared["prologue"]) if length else 0,
                    loop=rate if length else None,
                    trips=length,
                    loop_dram_bytes=round(shared["loop"] * share) if length else 0,
                    epilogue=epilogue,
                    epilogue_dram_bytes=round(shared["epilogue"]),
                )
            )
        order = {kind: index for index, kind in enumerate(kinds)}
        pattern = tuple(order[trip] for trip in trips)
        if self.kernel.mapping.block_order == "reversed":
            pattern = pattern[::-1]
        launch = {"stream": self.gpu.launch.stream_s, "graph": self.gpu.launch.graph_s}
        return KernelWork(
            name=self.kernel.name,
            classes=tuple(classes),
            pattern=pattern,
            repeats=repeats,
            sm_count=self.gpu.sm_count,
            blocks_per_sm=self.blocks_per_sm,
            dram_bandwidth_bytes_per_s=round(_dram_bandwidth(self.gpu, self.memory.dram)),
            launch_ticks=round(launch.get(self.scenario.launch, 0.0) * TICKS_PER_SECOND),
            loop_chunks=4 if len(classes) > 1 else 1,
        )

    def _trips(self) -> tuple[list[tuple[int, int]], int]:
        """(unmasked, masked) main-loop trips of the blocks of a pattern, and its repeats."""
        if not self.path:
            return [(1, 0)], self.kernel.blocks
        loops = tuple(self.record.loops[number] for number in self.path)
        walked = next(
            (
                loop.seen_from.axis
                for loop in loops
                if loop.seen_from is not None and loop.seen_from.owner == "own"
            ),
            None,
        )
        if walked is None or not self.kernel.problem.causal:
            return [self._block_trips(loops, {})], self.kernel.blocks
        faster = 1
        for axis in self.kernel.grid[: self.kernel.grid.index(walked)]:
            faster *= self.kernel.tile_count(axis)
        trips = [
            self._block_trips(loops, {("own", walked): span})
            for span in spans(self.kernel, walked)
            for _ in range(faster)
        ]
        return trips, self.kernel.blocks // len(trips)

    def _block_trips(
        self, loops: tuple[Loop, ...], position: dict[object, Span]
    ) -> tuple[int, int]:
        loop, inner = loops[0], loops[1:]
        visited = self._visit(loop, position)
        if not inner:
            return visited.trips - visited.masked, visited.masked
        plain = masked = 0
        for span in visited.spans():
            a, b = self._block_trips(inner, {**position, loop.number: span})
            plain, masked = plain + a, masked + b
        return plain, masked

    def _visit(self, loop: Loop, position: dict[object, Span]) -> Visit:
        seen = loop.seen_from
        key: object = None
        if seen is not None:
            key = seen.owner if isinstance(seen.owner, int) else (seen.owner, seen.axis)
        return visit(self.kernel, loop, position.get(key))

    # Phases.

    def _shares(self) -> dict[str, float]:
        """DRAM bytes of an average block by phase: where the program touches each tensor."""
        shares = {"prologue": 0.0, "loop": 0.0, "epilogue": 0.0}
        for name, access in self.memory.dram.items():
            ops = [op for op in self.record.once() if op.name == name]
            loads = [op for op in ops if op.kind == "load"]
            stores = [op for op in ops if op.kind == "store"]
            in_loop = any(op.path for op in loads)
            shares["loop" if in_loop else "prologue"] += access.read_bytes
            shares["loop" if any(op.path for op in stores) else "epilogue"] += access.write_bytes
        return {phase: amount / self.kernel.blocks for phase, amount in shares.items()}

    def _first_tiles(self) -> list[Op]:
        """The loads a block waits for before its first product."""
        outside = [op for op in self.record.once() if op.kind == "load" and not op.path]
        inside = [
            op for op in self.record.once() if op.kind == "load" and op.path and op.path == self.path
        ]
        return outside + inside[:1]

    def _prologue(self) -> Charges:
        """Block start, latency of the first tiles, their bytes through the shared port."""
        gpu, first = self.gpu, self._first_tiles()
        first_bytes = sum(op.elements * DTYPE_BYTES[op.dtype] for op in first)
        missing = max((1 - self.resident.of(op.name) for op in first), default=0.0)
        clock = TICKS_PER_SECOND / self.ticks_per_cycle
        dram_cycles = gpu.dram.latency_s * clock
        latency = gpu.l2.far_latency_cycles
        latency += max(0.0, dram_cycles - latency) * missing
        port = first_bytes * self._residents() / gpu.l2.read_bytes_per_clock_per_sm
        return _charges(
            [
                ("launch", BLOCK_START_CYCLES),
                ("dram" if missing > 0 else "l2", latency),
                ("l2", port + self._outer_cycles()),
            ],
            self.ticks_per_cycle,
        )

    def _outer_cycles(self) -> float:
        """What loops around and beside the main loop cost: their copies, exposed."""
        cycles = 0.0
        loops = self.record.loops
        for number, loop in enumerate(loops):
            path = (*loop.parent, number)
            if path == self.path or not self.path:
                continue
            ops = [op for op in self.record.once() if op.path == path]
            trips = self._visit(loop, {}).trips
            for op in ops:
                moved = op.elements * DTYPE_BYTES[op.dtype] * self._residents()
                if op.kind == "load":
                    cycles += trips * moved / self.gpu.l2.read_bytes_per_clock_per_sm
                elif op.kind == "store":
                    cycles += trips * moved / self.gpu.l2.write_bytes_per_clock_per_sm
            if any(op.kind == "load" for op in ops):
                cycles += trips * self.gpu.l2.latency_cycles
        return cycles

    def _epilogue(self) -> Charges:
        """Last product to first store, then the output through the write port."""
        stored = sum(
            op.elements * DTYPE_BYTES[op.dtype]
            for op in self.record.once()
            if op.kind == "store" and not op.path
        )
        end = BLOCK_END_CYCLES if self.path else 0
        port = stored / self.gpu.l2.write_bytes_per_clock_per_sm
        return _charges([("shared_memory", end), ("l2", port)], self.ticks_per_cycle)


def _scaled(rate: Rate, blocks: int) -> Rate:
    """T(blocks) from T(3): in proportion, the pipes being full."""
    factor = blocks / 3
    return Rate(
        rate.cycles * factor,
        rate.spread * factor,
        {cause: cycles * factor for cause, cycles in rate.charges.items()},
        rate.utilisation,
        rate.seeds,
        rate.iterations,
    )


def _charges(cycles: list[tuple[str, float]], ticks_per_cycle: float) -> Charges:
    return tuple((cause, round(c * ticks_per_cycle)) for cause, c in cycles if c > 0)


def _loop_rate(periods: list[tuple[float, dict[str, float]]], clock_hz: float) -> LoopRate:
    """Periods and charges in whole ticks; the last cause of a period takes the rounding."""
    scale = TICKS_PER_SECOND / clock_hz
    ticks: list[int] = []
    charges: list[Charges] = []
    for cycles, causes in periods:
        period = max(1, round(cycles * scale))
        edges, passed = [0], 0.0
        for share in causes.values():
            passed += share
            edges.append(round(passed / cycles * period) if cycles else 0)
        edges[-1] = period
        ticks.append(period)
        charges.append(
            tuple(
                (cause, end - start)
                for cause, start, end in zip(causes, edges, edges[1:], strict=False)
            )
        )
    return LoopRate(tuple(ticks), tuple(charges))


def _dram_bandwidth(gpu: Gpu, dram: Level) -> float:
    """Achieved bandwidth for this mix: turning the bus round costs most at one to one."""
    moved = total(dram)
    less = 2 * min(moved.read_bytes, moved.write_bytes)
    mixed = less / moved.total_bytes if moved.total_bytes else 0.0
    efficiency = gpu.dram.read_efficiency * (1 - mixed) + gpu.dram.mixed_efficiency * mixed
    return gpu.dram.bandwidth_bytes_per_s * efficiency


