"""The simulation of a plan: kernel after kernel, with what stays in L2 between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING

from fasim.problem import Scenario
from fasim.readings.traffic import KernelTraffic, Level, Traffic
from fasim.schedules.plan import Plan
from fasim.schedules.record import Record, cached_record
from fasim.schedules.residency import BlockUse, block_use, residency
from fasim.schedules.residency import Residency as Occupancy
from fasim.simulator.gpu_simulation import simulate as simulate_kernel
from fasim.simulator.kernel_work import LoweredKernel, kernel_work
from fasim.simulator.least_time import least_ticks
from fasim.simulator.mechanisms import idealised, is_on
from fasim.simulator.memory import (
    MemoryTraffic,
    Residency,
    copies,
    memory_traffic,
    miss_share,
    residency_after,
)
from fasim.simulator.result import KernelResult
from fasim.simulator.roofline import roofline_s
from fasim.simulator.work import TICKS_PER_SECOND, KernelWork

if TYPE_CHECKING:
    from fasim.hardware import Gpu


class Slower(Exception):
    """A plan that is sure to take longer than it may; it was not simulated."""


@dataclass(frozen=True)
class ReadyKernel:
    """One kernel of a chain before it is simulated: everything its time rests on."""

    record: Record
    use: BlockUse
    occupancy: Occupancy
    memory: MemoryTraffic
    lowered: LoweredKernel
    roofline_s: float

    @property
    def least_s(self) -> float:
        """No simulation takes less."""
        return least_ticks(self.lowered.work) / TICKS_PER_SECOND


@dataclass(frozen=True)
class SimulatedKernel(ReadyKernel):
    """One kernel of a simulated chain."""

    result: KernelResult

    @property
    def time_s(self) -> float:
        return self.result.time_s


@dataclass(frozen=True)
class Simulation:
    """A simulated chain: its kernels in order."""

    kernels: tuple[SimulatedKernel, ...]

    @property
    def time_s(self) -> float:
        return sum(kernel.time_s for kernel in self.kernels)

    @property
    def roofline_s(self) -> float:
        return sum(kernel.roofline_s for kernel in self.kernels)

    @property
    def stalls_s(self) -> dict[str, float]:
        """Seconds by cause, the mean over block slots; they sum to the time."""
        stalls: dict[str, float] = {}
        for kernel in self.kernels:
            for cause, seconds in kernel.result.time_by_cause_s.items():
                stalls[cause] = stalls.get(cause, 0.0) + seconds
        return stalls


def simulate(
    plan: Plan,
    traffic: Traffic,
    gpu: Gpu,
    scenario: Scenario,
    *,
    repeat: bool = True,
    timeline: bool = False,
    at_most_s: float = inf,
) -> Simulation:
    """Simulates every kernel of a plan on `gpu`.

    Args:
        traffic: the plan's exact bytes and operations.
        repeat: let repeated waves stand for those like them; off, every block is simulated.
        timeline: keep the spans of the simulated blocks.
        at_most_s: the time from which on nobody asks how long the plan takes.

    Raises:
        Slower: a bound shows that it takes longer than `at_most_s`.
    """
    kernels = _ready(plan, traffic, idealised(gpu), scenario)
    # Without its waves, a kernel takes less than its SM with most blocks.
    if is_on("waves") and sum(kernel.least_s for kernel in kernels) > at_most_s:
        raise Slower(plan.schedule)
    return Simulation(
        tuple(
            SimulatedKernel(
                **vars(kernel), result=_result(_simulated(kernel.lowered.work, repeat, timeline))
            )
            for kernel in kernels
        )
    )


def _ready(plan: Plan, traffic: Traffic, gpu: Gpu, scenario: Scenario) -> list[ReadyKernel]:
    """The kernels, each with what those before it leave in L2."""
    resident = _at_start(traffic, gpu, scenario)
    kernels = []
    for kernel, exact in zip(plan.kernels, traffic.kernels, strict=True):
        record = cached_record(kernel)
        use = block_use(record)
        occupancy = residency(use, gpu)
        slots = occupancy.blocks_per_sm * gpu.sm_count
        memory = memory_traffic(record, exact, gpu, slots, resident)
        compiled = plan.compiled_loop(kernel)
        lowered = kernel_work(record, gpu, scenario, occupancy, memory, resident, compiled)
        bound_s = roofline_s(record, exact, memory, gpu)
        kernels.append(ReadyKernel(record, use, occupancy, memory, lowered, bound_s))
        resident = residency_after(record, exact, gpu, slots, resident)
    return kernels


def _simulated(work: KernelWork, repeat: bool, timeline: bool) -> KernelResult:
    """The simulation of a kernel. Chains hold the same work under several names."""
    if timeline:
        return simulate_kernel(work, repeat=repeat, timeline=True)
    return replace(_simulated_once(replace(work, name=""), repeat), name=work.name)


@lru_cache(maxsize=1024)
def _simulated_once(work: KernelWork, repeat: bool) -> KernelResult:
    """`_simulated`, by position; the result is to be read only."""
    return simulate_kernel(work, repeat=repeat)


def _result(result: KernelResult) -> KernelResult:
    """The result; without its waves, the slots that stand empty at the tail are not counted."""
    if is_on("waves"):
        return result
    busy = {cause: ticks for cause, ticks in result.slot_ticks.items() if cause != "tail"}
    return replace(result, ticks=round(sum(busy.values()) / result.slots), slot_ticks=busy)


def _at_start(traffic: Traffic, gpu: Gpu, scenario: Scenario) -> Residency:
    """What of the inputs lies in L2 before the first kernel.

    Warm: the call before was the same, so what survives is what a sweep over everything the
    chain touches leaves. Cold: nothing.
    """
    if scenario.l2 == "cold":
        return Residency({})
    sizes: Level = traffic.compulsory
    touched = sum(_size(name, traffic) * copies(1, gpu) for name in sizes)
    survives = 1 - miss_share(touched, gpu.l2.capacity_bytes)
    return Residency(dict.fromkeys(sizes, survives))


def _size(name: str, traffic: Traffic) -> int:
    """Bytes of a tensor as some kernel takes it in or gives it out."""
    return max(_largest(kernel, name) for kernel in traffic.kernels)


def _largest(kernel: KernelTraffic, name: str) -> int:
    access = kernel.compulsory.get(name)
    return 0 if access is None else max(access.read_bytes, access.write_bytes, access.reduce_bytes)
