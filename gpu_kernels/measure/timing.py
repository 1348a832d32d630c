"""Times of a function on the GPU: how often it is called, and what of its times is told."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpu_kernels.measure.device import Device, Function

WARM_UP_MS = 50.0  # a GPU needs some tens of milliseconds to reach its clock
BATCH_MS = 2.0  # between two events, whose resolution is half a microsecond
MEASURED_MS = 150.0
MIN_REPEATS, MAX_REPEATS = 5, 50
MAX_CALLS = 100  # in a batch: with five kernels each the queue of a stream, 1024, is not full
GRAPH_CALLS = 20

EVENTS = "CUDA events around calls"
COLD_EVENTS = "CUDA events around one call"
GRAPH_EVENTS = "CUDA events around a graph"


@dataclass(frozen=True)
class Timing:
    """Times of one call.

    Attributes:
        times_ms: of each repeat, over its calls.
        timer: what took them.
        begin_s, end_s: when, by `time.perf_counter`.
    """

    times_ms: tuple[float, ...]
    timer: str
    begin_s: float = 0.0
    end_s: float = 0.0

    @property
    def time_ms(self) -> float:
        """The median."""
        return statistics.median(self.times_ms)

    @property
    def spread_ms(self) -> float:
        """The distance of the quartiles: half of the times lie within."""
        if len(self.times_ms) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.times_ms, n=4, method="inclusive")
        return high - low


@dataclass(frozen=True)
class Estimate:
    """How long a call takes the GPU, and the host to enqueue."""

    device_ms: float
    host_ms: float

    def calls(self) -> int:
        """In a batch that is long enough for the events."""
        return max(1, min(MAX_CALLS, math.ceil(BATCH_MS / self.device_ms)))

    def repeats(self, calls: int) -> int:
        """Of a batch."""
        wanted = MEASURED_MS / (calls * self.device_ms)
        return max(MIN_REPEATS, min(MAX_REPEATS, round(wanted)))

    def head_start_ms(self, calls: int) -> float:
        """What the host needs to be ahead of the GPU; nothing where it is anyway."""
        return 0.0 if self.host_ms < self.device_ms / 2 else 1.5 * self.host_ms * calls


class Timer:
    """Times functions on a device.

    Args:
        clock: seconds; injected by tests.
    """

    def __init__(self, device: Device, clock: Callable[[], float] = time.perf_counter) -> None:
        self.device = device
        self.clock = clock

    def time(self, function: Function, launch: str = "stream", l2: str = "warm") -> Timing:
        """Times of a call launched so, with L2 in that state.

        Raises:
            ValueError: a graph over a cold L2: its calls follow each other.
        """
        if launch == "graph":
            if l2 != "warm":
                raise ValueError(f"l2 is {l2!r} under a graph, whose calls find it warm")
            return self._graph(function)
        return self._cold(function) if l2 == "cold" else self._stream(function)

    def estimate(self, function: Function) -> Estimate:
        """Warms up: compiles, brings the clock up, and sees how long a call takes."""
        function()
        self.device.synchronize()
        times: list[float] = []
        begin_s = self.clock()
        while len(times) < 3 or (self.clock() - begin_s) * 1e3 < WARM_UP_MS:
            times.append(self.device.events_ms(function, 1))
        self.device.synchronize()
        begin_s = self.clock()
        for _ in range(3):
            function()
        host_ms = (self.clock() - begin_s) * 1e3 / 3
        self.device.synchronize()
        return Estimate(max(min(times), 1e-3), host_ms)

    def _stream(self, function: Function) -> Timing:
        found = self.estimate(function)
        calls = found.calls()
        ahead = found.head_start_ms(calls)
        return self._repeated(
            lambda: self.device.events_ms(function, calls, head_start_ms=ahead) / calls,
            found.repeats(calls),
            f"{EVENTS}: {calls}",
        )

    def _cold(self, function: Function) -> Timing:
        found = self.estimate(function)
        ahead = found.head_start_ms(1)
        return self._repeated(
            lambda: self.device.events_ms(function, 1, flush=True, head_start_ms=ahead),
            found.repeats(1),
            COLD_EVENTS,
        )

    def _graph(self, function: Function) -> Timing:
        found = self.estimate(function)
        calls = min(GRAPH_CALLS, found.calls())
        replay = self.device.graph_of(function, calls)
        replay()
        self.device.synchronize()
        return self._repeated(
            lambda: self.device.events_ms(replay, 1) / calls,
            found.repeats(calls),
            f"{GRAPH_EVENTS} of {calls} calls",
        )

    def _repeated(self, once: Callable[[], float], repeats: int, timer: str) -> Timing:
        begin_s = self.clock()
        times = tuple(once() for _ in range(repeats))
        return Timing(times, timer, begin_s, self.clock())
