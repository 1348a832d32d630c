"""SM clock and power of the GPU, sampled all along by a thread of its own."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

INTERVAL_S = 0.01


@dataclass(frozen=True)
class Sample:
    """time_s: of `time.perf_counter`."""

    time_s: float
    clock_mhz: float
    power_w: float


Source = Callable[[], Iterator[tuple[float, float]]]  # (MHz, W), each as it is read


class Telemetry:
    """Samples while it is entered; without a source it has none, and everything else works.

    Args:
        source: yields readings for ever; its generator is closed at the end.
    """

    def __init__(self, source: Source | None) -> None:
        self._source = source
        self._samples: list[Sample] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Telemetry:
        if self._source is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)

    def between(self, begin_s: float, end_s: float) -> list[Sample]:
        """Samples of a span of `time.perf_counter`."""
        return [sample for sample in list(self._samples) if begin_s <= sample.time_s <= end_s]

    def typical(self, begin_s: float, end_s: float) -> tuple[float, float] | None:
        """The median clock in MHz and power in W of a span; None without a sample."""
        found = self.between(begin_s, end_s)
        if not found:
            return None
        return (
            statistics.median(sample.clock_mhz for sample in found),
            statistics.median(sample.power_w for sample in found),
        )

    def _sample(self) -> None:
        assert self._source is not None
        readings = self._source()
        for clock_mhz, power_w in readings:
            self._samples.append(Sample(time.perf_counter(), clock_mhz, power_w))
            if self._stop.is_set():
                break
        close = getattr(readings, "close", None)
        if close is not None:
            close()


def find_source(uuid: str) -> Source | None:
    """NVML if its Python package is here, else nvidia-smi in its loop; None without both."""
    try:
        import pynvml
    except ImportError:
        pynvml = None
    if pynvml is not None and (handle := _nvml_handle(pynvml, uuid)) is not None:
        return lambda: from_nvml(pynvml, handle)
    program = shutil.which("nvidia-smi")
    return (lambda: from_smi(program, uuid)) if program else None


def _nvml_handle(nvml: Any, uuid: str) -> Any:
    """Of the GPU, if NVML reads its clock and power; None if not."""
    try:
        nvml.nvmlInit()
        if uuid:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        else:
            handle = nvml.nvmlDeviceGetHandleByIndex(0)
        nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)
        nvml.nvmlDeviceGetPowerUsage(handle)
    except nvml.NVMLError:
        return None
    return handle


def from_nvml(nvml: Any, handle: Any) -> Iterator[tuple[float, float]]:
    """Readings of NVML, every INTERVAL_S."""
    while True:
        try:
            clock_mhz = float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))
            power_w = nvml.nvmlDeviceGetPowerUsage(handle) / 1e3
        except nvml.NVMLError:
            return
        yield clock_mhz, power_w
        time.sleep(INTERVAL_S)


def from_smi(program: str, uuid: str) -> Iterator[tuple[float, float]]:
    """Readings of one nvidia-smi that loops; ended with the generator."""
    command = [program, "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits"]
    command += ["-i", uuid] if uuid else []
    command += ["-lms", str(round(INTERVAL_S * 1e3))]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            reading = parse_smi(line)
            if reading is not None:
                yield reading
    finally:
        process.terminate()
        process.wait(timeout=5)
        process.stdout.close()


def parse_smi(line: str) -> tuple[float, float] | None:
    """`1980, 123.45` as numbers; None for a line that says neither, such as `[N/A]`."""
    try:
        clock_mhz, power_w = (float(cell) for cell in line.split(","))
    except ValueError:
        return None
    return clock_mhz, power_w
