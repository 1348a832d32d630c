"""A GPU for tests: the CPU, with events that a clock of its own times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gpu_kernels.measure.bench import Bench
from gpu_kernels.measure.device import Device, Function
from gpu_kernels.measure.environment import Environment
from gpu_kernels.measure.rows import RowMaker
from gpu_kernels.measure.telemetry import Telemetry
from gpu_kernels.measure.timing import Timer

ENVIRONMENT = Environment(
    gpu="h200-sxm",
    device="NVIDIA H200",
    architecture="sm_90",
    sm_count=2,
    l2_bytes=2**18,
    memory_bytes=2**23,
    torch="2.13.0",
    triton="3.9.0",
    cuda="13.0",
    driver="580.1",
    ecc="Enabled",
    mig="Disabled",
)


class FakeDevice(Device):
    """A call takes `call_ms` on the device and `host_ms` of the host.

    `happened` holds what was asked of it, in order.
    """

    def __init__(self, call_ms: float = 1.0, host_ms: float = 0.1) -> None:
        super().__init__(ENVIRONMENT, "cpu")
        self.call_ms, self.host_ms = call_ms, host_ms
        self.now_s = 0.0
        self.happened: list[tuple[object, ...]] = []

    def clock(self) -> float:
        self.now_s += 1e-4
        return self.now_s

    def called(self, function: Function) -> Function:
        """The function, with the host's time."""

        def call() -> object:
            self.now_s += self.host_ms / 1e3
            return function()

        return call

    def synchronize(self) -> None:
        self.happened.append(("synchronize",))

    def release(self) -> None:
        self.happened.append(("release",))

    def flush_l2(self) -> None:
        self.happened.append(("flush",))

    def events_ms(
        self, function: Function, calls: int, *, flush: bool = False, head_start_ms: float = 0.0
    ) -> float:
        del function  # the timer calls it to warm up: that shows that it runs
        self.happened.append(("events", calls, flush, head_start_ms))
        self.now_s += calls * self.call_ms / 1e3
        return calls * self.call_ms

    def graph_of(self, function: Function, calls: int) -> Function:
        self.happened.append(("graph", calls))
        return function


def bench(
    folder: Path,
    device: FakeDevice | None = None,
    telemetry: Telemetry | None = None,
    clock: Callable[[], float] | None = None,
) -> Bench:
    """A bench on a fake device."""
    device = device or FakeDevice()
    telemetry = telemetry or Telemetry(None)
    timer = Timer(device, clock or device.clock)
    return Bench(
        device, timer, telemetry, RowMaker(ENVIRONMENT, telemetry, "quick"), folder / "run.csv"
    )
