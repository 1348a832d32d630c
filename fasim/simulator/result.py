"""What a simulated kernel, or a chain of them, took and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fasim.simulator.timeline import Timeline, chrome_trace
from fasim.simulator.work import TICKS_PER_SECOND

Repetition = Literal["none", "exact", "slope"]


@dataclass(frozen=True, slots=True)
class KernelResult:
    """Time of one kernel.

    Attributes:
        ticks: from the start of the launch until the last slot is free.
        slot_ticks: ticks by cause, over all slots; they sum to slots × ticks.
        repetition: `exact` if a state of the whole GPU came back and the blocks between were
            skipped, `slope` if patterns were skipped at their mean cost, else `none`.
        repeated_blocks: how many blocks were skipped so.
        events: SimPy events processed.
        dram_bytes: what the channel carried, by phase: prologue, loop, epilogue.
    """

    name: str
    ticks: int
    slots: int
    slot_ticks: dict[str, int]
    blocks: int
    repetition: Repetition
    repeated_blocks: int
    events: int
    dram_bytes: dict[str, int]
    timeline: Timeline | None = None

    @property
    def waves(self) -> float:
        """How many times the grid fills the GPU."""
        return self.blocks / self.slots

    @property
    def repeated_waves(self) -> float:
        """How many of the waves were skipped."""
        return self.repeated_blocks / self.slots

    @property
    def time_s(self) -> float:
        """Seconds from the start of the launch to the end of the last block."""
        return self.ticks / TICKS_PER_SECOND

    @property
    def time_by_cause_s(self) -> dict[str, float]:
        """The mean over slots of the seconds charged to each cause."""
        return {
            cause: ticks / (self.slots * TICKS_PER_SECOND)
            for cause, ticks in self.slot_ticks.items()
        }


@dataclass(frozen=True, slots=True)
class ChainResult:
    """Time of kernels that run one after another."""

    kernels: tuple[KernelResult, ...]

    @property
    def ticks(self) -> int:
        """Ticks of all kernels together."""
        return sum(kernel.ticks for kernel in self.kernels)

    @property
    def time_s(self) -> float:
        """Seconds of all kernels together."""
        return self.ticks / TICKS_PER_SECOND

    @property
    def time_by_cause_s(self) -> dict[str, float]:
        """Seconds charged to each cause; they sum to `time_s`."""
        totals: dict[str, float] = {}
        for kernel in self.kernels:
            for cause, seconds in kernel.time_by_cause_s.items():
                totals[cause] = totals.get(cause, 0.0) + seconds
        return totals

    def chrome_trace(self) -> dict[str, Any]:
        """A Chrome trace of the kernels that were simulated with a timeline."""
        start, timelines = 0, []
        for kernel in self.kernels:
            if kernel.timeline is not None:
                timelines.append((start, kernel.timeline))
            start += kernel.ticks
        return chrome_trace(timelines)
