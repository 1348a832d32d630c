"""From a recorded kernel to the work the GPU simulation runs: its rate, its blocks in order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING

from fasim.problem import Scenario
from fasim.readings.traffic import Access, total
from fasim.schedules.compiled_loop import CompiledLoop
from fasim.schedules.record import Record
from fasim.schedules.residency import Residency as BlockResidency
from fasim.simulator.clock import sm_clock_hz
from fasim.simulator.compiled_stream import compiled_stream
from fasim.simulator.contention import dram_bandwidth_bytes_per_s, mean_wave_blocks, soft_maximum
from fasim.simulator.issue_order import longest_first
from fasim.simulator.loop_rates import loop_rate, stream_rate, stream_rates
from fasim.simulator.lowering import LoopStream, lower, main_loop
from fasim.simulator.mechanisms import is_on
from fasim.simulator.memory import MemoryTraffic, Residency
from fasim.simulator.phases import Phases, phase_bytes, start_cycles
from fasim.simulator.sm_engine import Rate
from fasim.simulator.streaming import EXPOSED_LATENCIES, ITERATION_CYCLES, block_cycles
from fasim.simulator.trips import GridTrips, Trips, grid_trips
from fasim.simulator.work import TICKS_PER_SECOND, TRIP_UNITS, BlockClass, KernelWork, LoopRate

if TYPE_CHECKING:
    from fasim.hardware import Gpu

# A streaming kernel until DRAM runs at its rate, and from then to the last byte: short kernels
# read low by this much (256 MB in 71 µs on H200, where the long-run rate gives 60).
STREAM_RAMP_S = 2e-6
# Causal blocks fetch their loop's bytes in several requests, as they reach them, or a short block
# would queue behind all that a long one will ever need: so many that one of them holds DRAM for
# no more than a quarter of the loop. Equal blocks fetch in one: their waves are in step.
MOST_LOOP_CHUNKS = 4
# A persistent block fetches the first tiles of its next piece of work while it ends the last: of
# two phases on end, one is hidden.
PERSISTENT_EXPOSED = 0.5


def launch_s(gpu: Gpu, scenario: Scenario) -> float:
    """What a launch costs before its first block."""
    costs = {"stream": gpu.launch.stream_s, "graph": gpu.launch.graph_s, "kernel": 0.0}
    return costs[scenario.launch]


@dataclass(frozen=True)
class LoweredKernel:
    """A kernel ready to simulate, and what its simulation rests on.

    Attributes:
        rates: T(r) by resident blocks; empty for a streaming kernel.
        stream: what warps issue in an iteration; None for a streaming kernel.
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
    compiled: CompiledLoop | None = None,
) -> LoweredKernel:
    """Lowers a kernel's main loop, finds its rate, and lays out its blocks.

    Args:
        memory: what reaches L2 and DRAM.
        resident: what lies in L2 as the kernel starts.
        compiled: the main loop as a compiler made it, in place of the lowered one.
    """
    builder = _Builder(record, gpu, scenario, occupancy.blocks_per_sm, memory, resident, compiled)
    path = main_loop(record)
    return builder.tensor_kernel(path) if path else builder.streaming_kernel()


@dataclass(frozen=True)
class _Builder:
    record: Record
    gpu: Gpu
    scenario: Scenario
    blocks_per_sm: int
    memory: MemoryTraffic
    resident: Residency
    compiled: CompiledLoop | None = None

    def tensor_kernel(self, path: tuple[int, ...]) -> LoweredKernel:
        """A kernel with matrix products: prologue, main loop at T(r), epilogue."""
        kernel, gpu = self.record.kernel, self.gpu
        residents = max(1, min(self.blocks_per_sm, -(-kernel.blocks // gpu.sm_count)))
        lowered = lower(self.record, gpu, path, self._late_cycles())
        stream = lowered if self.compiled is None else self._as_compiled(lowered, path)
        rates = stream_rates(stream.plain, self.blocks_per_sm, gpu)
        full = rates[residents - 1]
        masked_cost = 1.0
        if kernel.problem.masked:
            plain = full if stream is lowered else stream_rate(lowered.plain, residents, gpu)
            known = lowered.masked == lowered.plain  # charges and all
            masked = stream_rate(lowered.masked, residents, gpu, charged=known)
            masked_cost = masked.cycles / plain.cycles
        busy = dict(full.utilisation)
        if kernel.mapping.matrix_unit == "mma.sync":
            busy["tensor"] *= gpu.tensor_core.mma_sync_fraction
        clock_hz = self._clock_hz(busy)
        ticks_per_cycle = TICKS_PER_SECOND / clock_hz
        rate = loop_rate(
            {cause: cycles * ticks_per_cycle for cause, cycles in rate.charges.items()}
            for rate in rates
        )
        phases = Phases(
            self.record,
            gpu,
            path,
            residents,
            ticks_per_cycle,
            self._wave_ticks_per_byte(),
            self.memory,
            self.resident,
            self._exposed(),
            self._drain_cycles(path, residents, full),
        )
        work = self._tensor_work(grid_trips(self.record, path), rate, masked_cost, phases)
        return LoweredKernel(work, rates, stream, clock_hz)

    def _as_compiled(self, lowered: LoopStream, path: tuple[int, ...]) -> LoopStream:
        """The compiled stream in place of the plain one; it says not which tensor a copy brings."""
        assert self.compiled is not None
        loaded = {op.name for op in self.record.ops if op.kind == "load" and op.path == path}
        late_cycles = self._late_cycles()
        latest = max((late_cycles.get(name, 0.0) for name in loaded), default=0.0)
        stream = compiled_stream(self.compiled, self.gpu, lowered.bytes_per_iteration, latest)
        return replace(lowered, plain=(stream,))

    def streaming_kernel(self) -> LoweredKernel:
        """One pass over the block: its instructions and its bytes, softly combined."""
        clock_hz = self._clock_hz({})
        ticks_per_cycle = TICKS_PER_SECOND / clock_hz
        cycles = block_cycles(self.record, self.gpu)
        if not is_on("streaming-issue"):
            cycles = replace(cycles, cycles=1.0)
        blocks = self.record.kernel.blocks
        dram_bytes = -(-total(self.memory.dram).total_bytes // blocks)
        # Ticks of an SM for one block: to issue, through the port to L2, at DRAM.
        issue = cycles.cycles * ticks_per_cycle
        port = self._port_cycles(total(self.memory.l2)) / blocks * ticks_per_cycle
        dram = dram_bytes * self._wave_ticks_per_byte() / self.blocks_per_sm
        # The slower of the two memories contends with execution: DRAM as the bytes that blocks
        # wait for and what comes on top, the port in the rate.
        contended = dram if dram >= port else 0.0
        busy = issue if contended else soft_maximum(issue, port)
        # A block that loads in a loop waits for each iteration, however few blocks there are;
        # one without for its start and for the loads that wait for each other.
        latency = self._latency_cycles() * ticks_per_cycle
        if cycles.waits:
            least = cycles.waits * (latency + ITERATION_CYCLES * ticks_per_cycle)
            ramp_s = STREAM_RAMP_S * self._missing()  # DRAM's
            exposed = self._exposed_cycles()
        else:
            start = start_cycles(self.record.kernel.mapping)
            least = cycles.chain * latency + start * ticks_per_cycle
            # The ramp is DRAM's, and holds what the first blocks wait for beside their work.
            first = min(self.blocks_per_sm, -(-blocks // self.gpu.sm_count))
            waited_s = max(0.0, least - first * busy) / TICKS_PER_SECOND
            ramp_s = max(0.0, STREAM_RAMP_S * self._beyond_l2() - waited_s)
            exposed = 0.0
        rate = loop_rate(
            {
                cycles.cause: residents * issue,
                "l2": max(residents * busy, least) - residents * issue,
            }
            for residents in range(1, self.blocks_per_sm + 1)
        )
        extra = soft_maximum(issue, contended) - max(issue, contended)
        block = BlockClass(
            "one pass",
            prologue=(("l2", round(exposed * ticks_per_cycle)),),
            loop=rate,
            trips=TRIP_UNITS,
            loop_dram_bytes=dram_bytes,
            epilogue=(("dram", round(extra * self.blocks_per_sm)),),
        )
        work = self._work((block,), (0,), blocks, ramp_s=ramp_s)
        return LoweredKernel(work, (), None, clock_hz)

    def _exposed_cycles(self) -> float:
        """Of a block that loads in a loop, what it waits for besides: counted, or estimated."""
        mapping, latency = self.record.kernel.mapping, self._latency_cycles()
        if mapping.start_cycles is None:
            return EXPOSED_LATENCIES * latency
        return mapping.start_cycles + mapping.lookups * latency

    def _exposed(self) -> float:
        """The mean share of starts and ends of blocks that nothing runs beside."""
        kernel = self.record.kernel
        waves = kernel.blocks / (self.blocks_per_sm * self.gpu.sm_count)
        if not kernel.mapping.persistent or waves <= 1:
            return 1.0
        return (1 + PERSISTENT_EXPOSED * (waves - 1)) / waves

    def _drain_cycles(self, path: tuple[int, ...], residents: int, full: Rate) -> float:
        """What delayed products cost a block once: its last ones have no next tile beside them.

        A block of one iteration takes as long as it would without delay.
        """
        kernel = self.record.kernel
        if not kernel.mapping.delayed:
            return 0.0
        in_turn = replace(kernel, mapping=replace(kernel.mapping, delayed=()))
        stream = lower(replace(self.record, kernel=in_turn), self.gpu, path, self._late_cycles())
        rate = stream_rate(stream.plain, residents, self.gpu, charged=False)
        return max(0.0, rate.cycles - full.cycles)

    def _clock_hz(self, busy: dict[str, float]) -> float:
        return sm_clock_hz(self.gpu, busy, self.scenario.run_length)

    def _late_cycles(self) -> dict[str, float]:
        """Of each tensor, the mean by which a load takes longer for what L2 does not hold."""
        late = self._dram_latency_cycles() - self.gpu.l2.latency_cycles
        asked = {name: access.read_bytes for name, access in self.memory.l2.items()}
        return {
            name: max(0.0, late) * min(1.0, access.read_bytes / asked[name])
            for name, access in self.memory.dram.items()
            if asked[name]
        }

    def _latency_cycles(self) -> float:
        """Mean latency of a kernel's loads; of those that hit, half lie in the far partition."""
        hit = (self.gpu.l2.latency_cycles + self.gpu.l2.far_latency_cycles) / 2
        return hit + max(0.0, self._dram_latency_cycles() - hit) * self._missing()

    def _beyond_l2(self) -> float:
        """Share of the bytes moved that come from DRAM or go there."""
        moved = total(self.memory.l2).total_bytes
        return min(1.0, total(self.memory.dram).total_bytes / moved) if moved else 0.0

    def _missing(self) -> float:
        """Share of the bytes read that come from DRAM."""
        asked = total(self.memory.l2).read_bytes
        return min(1.0, total(self.memory.dram).read_bytes / asked) if asked else 0.0

    def _dram_latency_cycles(self) -> float:
        return self.gpu.dram.latency_s * self._clock_hz({})

    def _port_cycles(self, moved: Access) -> float:
        """Cycles of one SM's port to L2."""
        read = moved.read_bytes / self.gpu.l2.read_bytes_per_clock_per_sm
        written = moved.write_bytes + moved.reduce_bytes
        return read + written / self.gpu.l2.write_bytes_per_clock_per_sm

    def _wave_ticks_per_byte(self) -> float:
        """Of DRAM, for one byte of each block of a mean wave."""
        slots = self.blocks_per_sm * self.gpu.sm_count
        blocks = mean_wave_blocks(self.record.kernel.blocks, slots)
        bandwidth = dram_bandwidth_bytes_per_s(self.gpu, self.memory.dram)
        return blocks * TICKS_PER_SECOND / bandwidth

    # Blocks.

    def _tensor_work(
        self, trips: GridTrips, rate: LoopRate, masked_cost: float, phases: Phases
    ) -> KernelWork:
        """Blocks in classes by their trips, in the mapping's order.

        Args:
            masked_cost: time of a masked iteration over that of a plain one.
        """
        loads = phase_bytes(self.record, self.memory)
        # Blocks that see nothing load nothing: the others share what is loaded outside the loop.
        loading = sum(kind.total > 0 for kind in trips.pattern) / len(trips.pattern)
        kinds = sorted(set(trips.pattern))
        classes = []
        chunks, mean_trips, prologue = 1, trips.mean, phases.prologue()
        for kind in kinds:
            if not kind.total:
                start, end = phases.start(), phases.epilogue()
                classes.append(BlockClass(_name(kind), prologue=start, epilogue=end))
                continue
            length = kind.plain * TRIP_UNITS + round(kind.masked * masked_cost * TRIP_UNITS)
            loop_bytes = round(loads.loop * kind.total / mean_trips)
            compute = rate.period_ticks[phases.residents - 1] * length / TRIP_UNITS
            arrive = loop_bytes * phases.wave_ticks_per_byte
            if len(kinds) > 1:
                chunks = max(
                    chunks, min(MOST_LOOP_CHUNKS, ceil(MOST_LOOP_CHUNKS * arrive / compute))
                )
            classes.append(
                BlockClass(
                    _name(kind),
                    prologue=prologue,
                    prologue_dram_bytes=round(loads.prologue / loading),
                    loop=rate,
                    trips=length,
                    loop_dram_bytes=loop_bytes,
                    epilogue=phases.epilogue(compute, arrive),
                )
            )
        if self.record.kernel.mapping.block_order == "longest-first":
            trips = longest_first(trips, self.record.kernel)
        index = {kind: place for place, kind in enumerate(kinds)}
        pattern = tuple(index[kind] for kind in trips.pattern)
        return self._work(tuple(classes), pattern, trips.repeats, loop_chunks=chunks)

    def _work(
        self,
        classes: tuple[BlockClass, ...],
        pattern: tuple[int, ...],
        repeats: int,
        *,
        ramp_s: float = 0.0,
        loop_chunks: int = 1,
    ) -> KernelWork:
        launches = 1 + self.record.kernel.mapping.extra_launches
        return KernelWork(
            name=self.record.kernel.name,
            classes=classes,
            pattern=pattern,
            repeats=repeats,
            sm_count=self.gpu.sm_count,
            blocks_per_sm=self.blocks_per_sm,
            dram_bandwidth_bytes_per_s=round(
                dram_bandwidth_bytes_per_s(self.gpu, self.memory.dram)
            ),
            launch_ticks=round(
                (launches * launch_s(self.gpu, self.scenario) + ramp_s) * TICKS_PER_SECOND
            ),
            loop_chunks=loop_chunks,
        )


def _name(trips: Trips) -> str:
    masked = f"+{trips.masked} masked" if trips.masked else ""
    return f"{trips.plain}{masked} iterations"
