"""The result of a prediction, and its JSON form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fasim.problem import Attention, ProblemError, Scenario
from fasim.readings.footprint import Footprint
from fasim.readings.traffic import Access, Flops, Level, Traffic, total
from fasim.simulator.simulate import Simulation
from fasim.verbs.elasticities import elasticities
from fasim.verbs.host_transfer import HostTransfer
from fasim.verbs.intensity import Intensity
from fasim.verbs.trust import Trust

if TYPE_CHECKING:
    from fasim.hardware import Gpu
    from fasim.schedules.plan import Plan

LEVELS = ("compulsory", "global", "l2", "dram")
MODELLED = ("l2", "dram")  # these come from simulation; the others are exact


@dataclass(frozen=True)
class KernelPrediction:
    """One kernel of a prediction. Times are None if the problem does not fit the GPU's memory.

    Attributes:
        limiter: what stops an SM from holding one block more.
        waves: how many times the grid fills the GPU; `repeated_waves` of them were not
            simulated one by one, as they repeat others.
        traffic: bytes by level and tensor; `l2` and `dram` only where a time is.
        spilled_registers: a thread's registers over the limit, predicted to spill.
        local_bytes: local-memory traffic of the spilled registers, in and out.
    """

    name: str
    grid: tuple[int, ...]
    blocks_per_sm: int
    limiter: str
    waves: float
    warps: int
    shared_memory_bytes: int
    registers_per_thread: int
    spilled_registers: int
    local_bytes: int
    traffic: Mapping[str, Level]
    repeated_waves: float | None = None
    time_s: float | None = None
    roofline_s: float | None = None
    clock_hz: float | None = None
    stalls_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """What a schedule costs on a GPU, and why.

    Attributes:
        traffic: bytes by level (`compulsory`, `global`: exact; `l2`, `dram`: modelled) and
            tensor, of the whole chain.
        fits: whether device memory holds the chain; if not there is no time.
        stalls_s: seconds by cause, the mean over block slots; they sum to `time_s`.
        bound: the cause that takes most of the time.
        intensity: operations a byte against the GPU's ridge point, of the whole chain.
        changes: what overrides of the GPU moved and what they left alone, in lines.
        hardware, simulation: the GPU as it was read and the simulated chain: with them a
            prediction is opened at block or warp level.
        host: transfers between host and device, part of `time_s`; None without any.
        trust: what stands behind `time_s`: how wrong like cases were.
        plan, exact: the chain of kernels as planned, and its exact traffic.
    """

    gpu: str
    gpu_title: str
    problem: Attention
    scenario: Scenario
    schedule: str
    implementation: str | None
    tile: tuple[int, int]
    flops: Flops
    traffic: Mapping[str, Level]
    footprint: Footprint
    capacity_bytes: int
    fits: bool
    kernels: tuple[KernelPrediction, ...]
    assumptions: tuple[str, ...]
    intensity: Intensity
    changes: tuple[str, ...] = ()
    time_s: float | None = None
    roofline_s: float | None = None
    stalls_s: Mapping[str, float] = field(default_factory=dict)
    hardware: Gpu | None = field(default=None, repr=False, compare=False)
    simulation: Simulation | None = field(default=None, repr=False, compare=False)
    host: HostTransfer | None = None
    trust: Trust = field(default=Trust("unvalidated"), compare=False)
    plan: Plan | None = field(default=None, repr=False, compare=False)
    exact: Traffic | None = field(default=None, repr=False, compare=False)

    @cached_property
    def elasticities(self) -> dict[str, float]:
        """Per cent of time per per cent of each resource; none without a time.

        Worked out when first asked for: one more simulation for each resource.
        """
        if self.time_s is None or not (self.plan and self.exact and self.hardware):
            return {}
        fixed_s = self.host.time_s if self.host else 0.0
        return elasticities(
            self.plan, self.exact, self.hardware, self.scenario, self.time_s, fixed_s
        )

    @property
    def name(self) -> str:
        """The implementation where one was asked for, else the schedule."""
        return self.implementation or self.schedule

    @property
    def tile_name(self) -> str:
        return f"{self.tile[0]}x{self.tile[1]}"

    @property
    def fitting_time_s(self) -> float:
        """The time, for a caller who cannot go on without one.

        Raises:
            ProblemError: device memory does not hold the chain.
        """
        if self.time_s is None:
            raise ProblemError(
                f"{self.name} needs {self.footprint.peak_bytes / 2**30:.3g} GiB of device memory, "
                f"{self.gpu} has {self.capacity_bytes / 2**30:.3g} GiB"
            )
        return self.time_s

    @property
    def tflops_per_s(self) -> float | None:
        """4·B·H·Sq·Sk·D over the time, halved when causal, × 2.5 backward, in 10¹² a second.

        None for a schedule that multiplies no matrices.
        """
        if self.time_s is None or not self.flops.tensor:
            return None
        return self.problem.nominal_flops / self.time_s / 1e12

    @property
    def bound(self) -> str | None:
        if not self.stalls_s:
            return None
        return max(self.stalls_s, key=lambda cause: self.stalls_s[cause])

    def to_dict(self, *, sensitivity: bool = True) -> dict[str, Any]:
        """The JSON form: strict (null, never NaN), milliseconds and bytes.

        Args:
            sensitivity: with the elasticities, which take a simulation each.
        """
        return {
            "gpu": self.gpu,
            "gpu_title": self.gpu_title,
            "gpu_changes": list(self.changes),
            "problem": asdict(self.problem),
            "scenario": asdict(self.scenario),
            "schedule": self.schedule,
            "implementation": self.implementation,
            "tile": self.tile_name,
            "time_ms": _ms(self.time_s),
            "roofline_ms": _ms(self.roofline_s),
            "tflops_per_s": self.tflops_per_s,
            "bound": self.bound,
            "intensity": self.intensity.to_dict(),
            "stalls": _milliseconds(self.stalls_s),
            "host": None if self.host is None else self.host.to_dict(),
            "trust": self.trust.to_dict(),
            **({"elasticities": self.elasticities} if sensitivity else {}),
            "flops": asdict(self.flops),
            "traffic": _levels(self.traffic),
            "memory": {
                "fits": self.fits,
                "peak_bytes": self.footprint.peak_bytes,
                "capacity_bytes": self.capacity_bytes,
                "by_tensor": dict(self.footprint.by_tensor),
            },
            "kernels": [_kernel(kernel) for kernel in self.kernels],
            "assumptions": list(self.assumptions),
        }


def _kernel(kernel: KernelPrediction) -> dict[str, Any]:
    return {
        "name": kernel.name,
        "grid": list(kernel.grid),
        "warps": kernel.warps,
        "blocks_per_sm": kernel.blocks_per_sm,
        "limiter": kernel.limiter,
        "shared_memory_bytes": kernel.shared_memory_bytes,
        "registers_per_thread": kernel.registers_per_thread,
        "spilled_registers": kernel.spilled_registers,
        "local_bytes": kernel.local_bytes,
        "waves": kernel.waves,
        "repeated_waves": kernel.repeated_waves,
        "time_ms": _ms(kernel.time_s),
        "roofline_ms": _ms(kernel.roofline_s),
        "clock_hz": kernel.clock_hz,
        "stalls": _milliseconds(kernel.stalls_s),
        "traffic": _levels(kernel.traffic),
    }


def _levels(traffic: Mapping[str, Level]) -> dict[str, Any]:
    return {level: _level(traffic.get(level)) for level in LEVELS}


def _level(level: Level | None) -> dict[str, Any]:
    """One level: its sums, and bytes by tensor. A level that was not modelled is all null."""
    if level is None:
        return {**_access(None), "by_tensor": {}}
    return {
        **_access(total(level)),
        "by_tensor": {name: _access(access) for name, access in level.items()},
    }


def _access(access: Access | None) -> dict[str, int | None]:
    return {
        "read_bytes": None if access is None else access.read_bytes,
        "write_bytes": None if access is None else access.write_bytes,
        "reduce_bytes": None if access is None else access.reduce_bytes,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _milliseconds(causes: Mapping[str, float]) -> dict[str, float]:
    return {cause: seconds * 1e3 for cause, seconds in _largest_first(causes.items())}


def _largest_first(items: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    return sorted(items, key=lambda item: -item[1])
