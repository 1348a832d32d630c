"""The roofline: a bound no prediction may beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasim.problem import TENSOR_DTYPE
from fasim.readings.traffic import KernelTraffic, total
from fasim.schedules.record import Record
from fasim.simulator.memory import MemoryTraffic

if TYPE_CHECKING:
    from fasim.hardware import Gpu


def roofline_s(record: Record, exact: KernelTraffic, memory: MemoryTraffic, gpu: Gpu) -> float:
    """Seconds one kernel takes at least: its widest pipe, or its DRAM bytes at the pins.

    Each pipe at its full rate and the highest clock the part reaches; DRAM bytes are the
    compulsory reads that were not in L2 at the start, at the pin bandwidth.
    """
    highest = gpu.clock.boost_hz * gpu.sm_count
    rate = gpu.tensor_core.flops_per_clock[TENSOR_DTYPE[record.kernel.problem.dtype]]
    flops = exact.flops
    pipes = (
        flops.tensor / (rate * highest) if rate else 0.0,
        flops.sfu / (gpu.sfu.lanes * highest),
        flops.fp32 / (2 * gpu.fp32.lanes * highest),
    )
    fresh = total(exact.compulsory).read_bytes - memory.resident_bytes
    return max(*pipes, fresh / gpu.dram.bandwidth_bytes_per_s)
