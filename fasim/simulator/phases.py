"""What the blocks of a tensor kernel do before and after their main loop, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fasim.readings.counting import Counter
from fasim.schedules.language import ELEMENT_BYTES
from fasim.schedules.mapping import Mapping
from fasim.schedules.record import Op, Record
from fasim.simulator.contention import exposed_burst, soft_maximum
from fasim.simulator.mechanisms import is_on
from fasim.simulator.memory import MemoryTraffic, Residency
from fasim.simulator.work import TICKS_PER_SECOND, Charges

if TYPE_CHECKING:
    from fasim.hardware import Gpu

# From a block's start to its first load: parameters, addresses, barrier set-up; where the kernel's
# machine code has not been counted.
BLOCK_START_CYCLES = 300
# From the last product to the first store: scaling, rounding, staging through shared memory.
BLOCK_END_CYCLES = 500
# Dependent latencies before the first tile of a paged cache: the sequence's length, and the page
# table's entry. Blocks of other heads and splits read the same: they lie in L2.
PAGED_LOOKUPS = 2


def start_cycles(mapping: Mapping) -> int:
    """From a block's start to its first load, memory's latencies apart: as compiled, or estimated.

    Of a streaming kernel that has been counted: to its last store.
    """
    return mapping.start_cycles or BLOCK_START_CYCLES


@dataclass(frozen=True, slots=True)
class PhaseBytes:
    """DRAM bytes of an average block, by phase."""

    prologue: float
    loop: float
    epilogue: float


def phase_bytes(record: Record, memory: MemoryTraffic) -> PhaseBytes:
    """DRAM bytes of an average block by phase: where the program touches each tensor."""
    totals = {"prologue": 0, "loop": 0, "epilogue": 0}
    for name, access in memory.dram.items():
        uses = [op for op in record.once() if op.name == name]
        ops = [op for op in uses if op.path]
        if uses and all(op.kind == "reduce" and not op.path for op in uses):
            totals["epilogue"] += access.total_bytes  # L2 fetches what it adds to
            continue
        loaded_in_loop = any(op.kind in ("load", "reduce") for op in ops)
        stored_in_loop = any(op.kind in ("store", "reduce") for op in ops)
        totals["loop" if loaded_in_loop else "prologue"] += access.read_bytes
        totals["loop" if stored_in_loop else "epilogue"] += access.write_bytes
    blocks = record.kernel.blocks
    return PhaseBytes(*(totals[phase] / blocks for phase in ("prologue", "loop", "epilogue")))


@dataclass(frozen=True, slots=True)
class Phases:
    """Prologue and epilogue of an average block, in ticks by cause.

    Attributes:
        path: the main loop.
        residents: blocks that share an SM, and so its port to L2.
        ticks_per_cycle: of the SM's clock under this kernel.
        wave_ticks_per_byte: of DRAM, for one byte of each block of a mean wave.
        exposed: the share of fixed costs that nothing runs beside; less than 1 where blocks are
            persistent.
        drain_cycles: what ends a loop with delayed products.
    """

    record: Record
    gpu: Gpu
    path: tuple[int, ...]
    residents: int
    ticks_per_cycle: float
    wave_ticks_per_byte: float
    memory: MemoryTraffic
    resident: Residency
    exposed: float = 1.0
    drain_cycles: float = 0.0

    def start(self) -> Charges:
        """A block that sees nothing: it starts, and goes on to store what it has."""
        return self._ticks(("launch", start_cycles(self.record.kernel.mapping)))

    def prologue(self) -> Charges:
        """Block start, latency of the first tiles, their bytes through the shared port.

        Tiles that lie in pages come last of three that wait for each other: the length of the
        sequence, the page table's entry, the tile; what the mapping looks up comes before.
        """
        gpu, first = self.gpu, self._first_tiles()
        missing = max((1 - self.resident.of(op.name) for op in first), default=0.0)
        hit = gpu.l2.far_latency_cycles
        miss = max(hit, gpu.dram.latency_s * TICKS_PER_SECOND / self.ticks_per_cycle)
        tables = self.record.kernel.mapping.lookups
        tables += PAGED_LOOKUPS if any(op.inputs for op in first) else 0
        first_bytes = sum(_bytes(op) for op in first) * self.residents
        port = first_bytes / gpu.l2.read_bytes_per_clock_per_sm
        return self._ticks(
            ("launch", start_cycles(self.record.kernel.mapping)),
            ("dram" if missing > 0 else "l2", hit + (miss - hit) * missing),
            ("l2", tables * hit + port + self._other_loops()),
        )

    def epilogue(self, compute: float = 0.0, arrive: float = 0.0) -> Charges:
        """Last product to first store, the output through the write port, what DRAM delays.

        Args:
            compute, arrive: ticks of the block's loop in the SM and at DRAM.
        """
        leaving = ("store", "reduce")
        stores = [op for op in self.record.once() if op.kind in leaving and not op.path]
        stored = sum(_bytes(op) for op in stores)
        port = stored / self.gpu.l2.write_bytes_per_clock_per_sm * self.ticks_per_cycle
        port *= self.exposed if is_on("phases") else 0.0
        contended = soft_maximum(compute, arrive) - max(compute, arrive)
        written = phase_bytes(self.record, self.memory).epilogue
        burst = written * self.wave_ticks_per_byte
        drain = self.drain_cycles * self.ticks_per_cycle if compute else 0.0
        # The same bytes pass the port and DRAM, one behind the other.
        delayed = max(0.0, exposed_burst(burst, compute, arrive) - port)
        return (
            ("tensor", round(drain)),
            *self._ticks(("shared_memory", BLOCK_END_CYCLES)),
            ("l2", round(port)),
            ("dram", round(contended + delayed)),
        )

    def _first_tiles(self) -> list[Op]:
        """The loads a block waits for before its first product."""
        loads = [op for op in self.record.once() if op.kind == "load"]
        outside = [op for op in loads if not op.path]
        addresses = {index for op in loads for index in op.inputs}  # of a page table
        inside = [op for op in loads if op.path == self.path and op.index not in addresses]
        return outside + inside[:1]

    def _other_loops(self) -> float:
        """Cycles of the loops around and beside the main loop: their copies, exposed."""
        cycles = 0.0
        l2, counter, blocks = self.gpu.l2, Counter(self.record), self.record.kernel.blocks
        for number, loop in enumerate(self.record.loops):
            path = (*loop.parent, number)
            if path == self.path:
                continue
            ops = [op for op in self.record.once() if op.path == path]
            trips = max((counter.executions(op) for op in ops), default=0) / blocks
            for op in ops:
                moved = trips * _bytes(op) * self.residents
                if op.kind == "load":
                    cycles += moved / l2.read_bytes_per_clock_per_sm
                elif op.kind in ("store", "reduce"):
                    cycles += moved / l2.write_bytes_per_clock_per_sm
            if any(op.kind == "load" for op in ops):
                cycles += trips * l2.latency_cycles
        return cycles

    def _ticks(self, *cycles: tuple[str, float]) -> Charges:
        if not is_on("phases"):
            return ()
        ticks = self.ticks_per_cycle * self.exposed
        return tuple((cause, round(c * ticks)) for cause, c in cycles if c > 0)


def _bytes(op: Op) -> int:
    return op.elements * ELEMENT_BYTES[op.dtype]
