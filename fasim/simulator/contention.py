"""DRAM against the SMs: the rate it reaches, and what of its time execution does not hide.

Times are in any one unit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasim.readings.traffic import Level, total
from fasim.simulator.mechanisms import is_on

if TYPE_CHECKING:
    from fasim.hardware import Gpu


def dram_bandwidth_bytes_per_s(gpu: Gpu, dram: Level) -> float:
    """Achieved bandwidth for this mix: turning the bus round costs most at one to one."""
    moved = total(dram)
    less = 2 * min(moved.read_bytes, moved.write_bytes)
    mixed = less / moved.total_bytes if moved.total_bytes else 0.0
    efficiency = gpu.dram.read_efficiency * (1 - mixed) + gpu.dram.mixed_efficiency * mixed
    return gpu.dram.bandwidth_bytes_per_s * efficiency


def mean_wave_blocks(blocks: int, slots: int) -> float:
    """Blocks of a mean wave of the grid.

    The last wave is often thin, and DRAM serves its few blocks sooner. Where every block is
    given the same share of DRAM, the mean wave is what keeps the sum over waves right.
    """
    waves = -(-blocks // slots)
    return blocks / waves


def soft_maximum(execution: float, memory: float) -> float:
    """Execution and DRAM time overlap but contend: (a³ + b³)^⅓, measured on softmax kernels.

    At equal times a quarter is lost; at three to one, one part in a hundred.
    """
    if not is_on("contention"):
        return max(execution, memory)
    return float((execution**3 + memory**3) ** (1 / 3))


def exposed_burst(burst: float, compute: float, arrive: float) -> float:
    """The part of a wave's writes that delays its blocks.

    All blocks of a wave write together. What DRAM drains while the next wave computes costs
    nothing; the next wave's loads meet a drain in progress with the probability that there is
    one, burst/loop. A GEMM whose loop is shorter than its burst pays all of it.

    Args:
        burst: time that DRAM takes for the writes of a wave.
        compute, arrive: time that the loop of a wave takes in the SMs and at DRAM.
    """
    loop = max(compute, arrive)
    if burst <= 0 or loop <= 0:
        return burst
    hidden = burst * min(1.0, burst / loop) if is_on("write-bursts") else 0.0
    return max(hidden, burst + arrive - loop)  # DRAM does not carry more than it can
