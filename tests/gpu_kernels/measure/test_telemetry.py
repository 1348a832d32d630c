"""Clock and power of a span; none where no tool tells them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace

from gpu_kernels.measure.telemetry import Telemetry, from_nvml, parse_smi


def readings() -> Iterator[tuple[float, float]]:
    while True:
        yield 1980.0, 350.0
        time.sleep(0.001)


def test_a_span_has_its_samples_and_no_others() -> None:
    with Telemetry(readings) as telemetry:
        time.sleep(0.05)
        begin_s = time.perf_counter()
        time.sleep(0.05)
        end_s = time.perf_counter()
        time.sleep(0.02)
    found = telemetry.between(begin_s, end_s)
    assert found
    assert len(found) < len(telemetry.between(0, end_s + 60))
    assert telemetry.typical(begin_s, end_s) == (1980.0, 350.0)
    assert telemetry.typical(end_s + 60, end_s + 61) is None


def test_without_a_source_there_is_nothing() -> None:
    with Telemetry(None) as telemetry:
        assert telemetry.typical(0, time.perf_counter()) is None


def test_lines_of_nvidia_smi() -> None:
    assert parse_smi("1980, 123.45\n") == (1980.0, 123.45)
    assert parse_smi("1980, [N/A]\n") is None
    assert parse_smi("\n") is None


def test_nvml_gives_watts_and_ends_with_the_gpu() -> None:
    class NVMLError(Exception):
        pass

    answers = iter([350_500, 351_000])

    def power(handle: str) -> int:
        assert handle == "GPU"
        try:
            return next(answers)
        except StopIteration:
            raise NVMLError from None

    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        NVML_CLOCK_SM=1,
        nvmlDeviceGetClockInfo=lambda _, kind: 1980 if kind == 1 else 0,
        nvmlDeviceGetPowerUsage=power,
    )
    assert list(from_nvml(nvml, "GPU")) == [(1980.0, 350.5), (1980.0, 351.0)]
