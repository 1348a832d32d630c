"""From a recorded kernel to the work the GPU simulation runs: rates, phases, blocks in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fasim.problem import DTYPE_BYTES, Scenario
from fasim.readings.traffic import Access, Level, total
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
# A streaming kernel until DRAM runs at its rate, and from then to the last byte: short kernels
# read low by this much (256 MB in 71 µs on H200, where the long-run rate gives 60).
STREAM_RAMP_S = 2e-6


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
        return self._tensor_kernel() if self.path else self._streaming_kernel()

    def _tensor_kernel(self) -> LoweredKernel:
        stream = lower(self.record, self.gpu, self.path)
        rates = self._rates(stream)
        full = rates[self._residents() - 1]
        masked_cost = 1.0
        if self.kernel.problem.causal:
            masked_cost = self._rate(stream, self._residents(), masked=True).cycles / full.cycles
        busy = dict(full.utilisation)
        if self.kernel.mapping.matrix_unit == "mma.sync":
            busy["tensor"] *= self.gpu.tensor_core.mma_sync_fraction
        clock = sm_clock_hz(self.gpu, busy, self.scenario.run_length == "sustained")
        self.ticks_per_cycle = TICKS_PER_SECOND / clock
        scaled = [
            {cause: cycles * self.ticks_per_cycle for cause, cycles in rate.charges.items()}
            for rate in rates
        ]
        work = self._lay_out(_loop_rate(scaled), masked_cost)
        return LoweredKernel(work, tuple(rates), stream, clock)

    def _streaming_kernel(self) -> LoweredKernel:
        """One pass over the block: its instructions and its bytes, softly combined."""
        clock = sm_clock_hz(self.gpu, {}, self.scenario.run_length == "sustained")
        self.ticks_per_cycle = TICKS_PER_SECOND / clock
        cycles = block_cycles(self.record, self.gpu)
        issue = cycles.cycles * self.ticks_per_cycle
        dram = total(self.memory.dram).total_bytes / self.kernel.blocks * self._ticks_per_byte()
        port = self.ticks_per_cycle * self._port_cycles(total(self.memory.l2))
        memory, cause = max((dram, "dram"), (port, "l2"))
        periods = []
        for blocks in range(1, self.blocks_per_sm + 1):
            period = blocks * soft_maximum(issue, memory)
            periods.append({cycles.cause: blocks * issue, cause: period - blocks * issue})
        return LoweredKernel(self._lay_out(_loop_rate(periods), 1.0), (), None, clock)

    def _port_cycles(self, moved: Access) -> float:
        """Cycles of the SM's L2 port that a block of a streaming kernel takes."""
        read = moved.read_bytes / self.gpu.l2.read_bytes_per_clock_per_sm
        written = moved.write_bytes / self.gpu.l2.write_bytes_per_clock_per_sm
        return (read + written) / self.kernel.blocks

    def _ticks_per_byte(self) -> float:
        """Of DRAM, as long as every SM takes its share."""
        sms = min(self.gpu.sm_count, self.kernel.blocks)
        return sms * TICKS_PER_SECOND / _dram_bandwidth(self.gpu, self.memory.dram)

    # Rates.

    def _residents(self) -> int:
        """Blocks an SM holds, or fewer if the grid does not fill it."""
        return max(1, min(self.blocks_per_sm, -(-self.kernel.blocks // self.gpu.sm_count)))

    def _rate(self, stream: LoopStream, residents: int, *, masked: bool = False) -> Rate:
        block = (stream.masked if masked else stream.plain,)
        return steady_rate(block, residents, barrier_cycles=round(self.gpu.sm.barrier_cycles))

    def _rates(self, stream: LoopStream) -> list[Rate]:
        """T(1) … T(R). Beyond three the pipes are full: one more block adds its own share."""
        rates = [self._rate(stream, r) for r in range(1, min(self.blocks_per_sm, 3) + 1)]
        while len(rates) < self.blocks_per_sm:
            rates.append(_scaled(rates[2], len(rates) + 1))
        return rates

    # Blocks.

    def _lay_out(self, rate: LoopRate, masked_cost: float) -> KernelWork:
        trips, repeats = self._trips()
        kinds = sorted(set(trips))
        mean = sum(plain + masked for plain, masked in trips) / len(trips)
        classes = []
        for plain, masked in kinds:
            length = plain * TRIP_UNITS + round(masked * masked_cost * TRIP_UNITS)
            share = (plain + masked) / mean if mean else 0.0
            name = f"{plain}+{masked} iterations" if masked else f"{plain} iterations"
            classes.append(self._block_class(name, rate, length, share))
        order = {kind: index for index, kind in enumerate(kinds)}
        pattern = tuple(order[trip] for trip in trips)
        if self.kernel.mapping.block_order == "reversed":
            pattern = pattern[::-1]
        ramp = 0.0 if self.path else STREAM_RAMP_S
        launch = {"stream": self.gpu.launch.stream_s, "graph": self.gpu.launch.graph_s}
        return KernelWork(
            name=self.kernel.name,
            classes=tuple(classes),
            pattern=pattern,
            repeats=repeats,
            sm_count=self.gpu.sm_count,
            blocks_per_sm=self.blocks_per_sm,
            dram_bandwidth_bytes_per_s=round(_dram_bandwidth(self.gpu, self.memory.dram)),
            launch_ticks=round((launch.get(self.scenario.launch, 0.0) + ramp) * TICKS_PER_SECOND),
            loop_chunks=4 if len(classes) > 1 else 1,
        )

    def _block_class(self, name: str, rate: LoopRate, length: int, share: float) -> BlockClass:
        """Blocks of one length; `share` is theirs of an average block's loads in the loop."""
        if not length:  # sees nothing: stores what it has
            start = self._ticks([("launch", BLOCK_START_CYCLES)])
            return BlockClass(name, prologue=start, epilogue=self._epilogue(0.0, 0.0))
        if not self.path:  # its bytes are in its rate
            return BlockClass(name, loop=rate, trips=length)
        loads = self._shares()
        loop_bytes = round(loads["loop"] * share)
        compute = rate.period_ticks[self._residents() - 1] * length / TRIP_UNITS
        arrive = loop_bytes * self._ticks_per_byte() * self._residents()
        return BlockClass(
            name,
            prologue=self._prologue(),
            prologue_dram_bytes=round(loads["prologue"]),
            loop=rate,
            trips=length,
            loop_dram_bytes=loop_bytes,
            epilogue=self._epilogue(compute, arrive),
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
            op
            for op in self.record.once()
            if op.kind == "load" and op.path and op.path == self.path
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
        return self._ticks(
            [
                ("launch", BLOCK_START_CYCLES),
                ("dram" if missing > 0 else "l2", latency),
                ("l2", port + self._outer_cycles()),
            ]
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

    def _epilogue(self, compute: float, arrive: float) -> Charges:
        """Last product to first store, the output through the write port, what DRAM delays.

        Args:
            compute, arrive: ticks of the block's loop in the SM and at DRAM.
        """
        stored = sum(
            op.elements * DTYPE_BYTES[op.dtype]
            for op in self.record.once()
            if op.kind == "store" and not op.path
        )
        port = stored / self.gpu.l2.write_bytes_per_clock_per_sm * self.ticks_per_cycle
        contended = soft_maximum(compute, arrive) - max(compute, arrive)
        burst = self._shares()["epilogue"] * self._ticks_per_byte() * self._residents()
        # The same bytes pass the port and DRAM, one behind the other.
        delayed = max(0.0, _exposed(burst, compute, arrive) - port)
        return (
            *self._ticks([("shared_memory", BLOCK_END_CYCLES)]),
            ("l2", round(port)),
            ("dram", round(contended + delayed)),
        )

    def _ticks(self, cycles: list[tuple[str, float]]) -> Charges:
        return tuple((cause, round(c * self.ticks_per_cycle)) for cause, c in cycles if c > 0)


def soft_maximum(execution: float, memory: float) -> float:
    """Execution and DRAM time overlap but contend: (a³ + b³)^⅓, measured on softmax kernels.

    At equal times a quarter is lost; at three to one, one part in a hundred.
    """
    return float((execution**3 + memory**3) ** (1 / 3))


def _exposed(burst: float, compute: float, arrive: float) -> float:
    """Ticks of a wave's writes that delay its blocks.

    All blocks of a wave write together. What DRAM drains while the next wave computes costs
    nothing; the next wave's loads meet a drain in progress with the probability that there is
    one, burst/loop. A GEMM whose loop is shorter than its burst pays all of it.
    """
    loop = max(compute, arrive)
    if burst <= 0 or loop <= 0:
        return burst
    hidden = burst * min(1.0, burst / loop)
    return max(hidden, burst + arrive - loop)  # DRAM does not carry more than it can


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


def _loop_rate(periods: list[dict[str, float]]) -> LoopRate:
    """Periods and charges in whole ticks: each edge between two causes is rounded once."""
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


def _dram_bandwidth(gpu: Gpu, dram: Level) -> float:
    """Achieved bandwidth for this mix: turning the bus round costs most at one to one."""
    moved = total(dram)
    less = 2 * min(moved.read_bytes, moved.write_bytes)
    mixed = less / moved.total_bytes if moved.total_bytes else 0.0
    efficiency = gpu.dram.read_efficiency * (1 - mixed) + gpu.dram.mixed_efficiency * mixed
    return gpu.dram.bandwidth_bytes_per_s * efficiency
