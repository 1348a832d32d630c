"""Calls and repeats follow the time of a call; the host is ahead of the GPU."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from gpu_kernels.measure.timing import Timer, Timing
from tests.gpu_kernels.measure.fakes import FakeDevice


def timed(device: FakeDevice, launch: str = "stream", l2: str = "warm") -> Timing:
    return Timer(device, device.clock).time(device.called(lambda: None), launch, l2)


def test_median_and_quartiles() -> None:
    timing = Timing((1.0, 2.0, 3.0, 4.0, 100.0), "")
    assert (timing.time_ms, timing.spread_ms) == (3.0, 2.0)
    assert Timing((1.0,), "").spread_ms == 0


def test_short_calls_share_a_batch_and_the_host_gets_a_head_start() -> None:
    device = FakeDevice(call_ms=0.05, host_ms=0.2)
    timing = timed(device)
    assert timing.time_ms == pytest.approx(0.05)
    batches = [event for event in device.happened if event[0] == "events" and event[1] != 1]
    assert {calls for _, calls, _, _ in batches} == {40}
    assert all(ahead > 40 * 0.2 for *_, ahead in batches)
    assert timing.end_s > timing.begin_s
    assert "40" in timing.timer


def test_long_calls_are_alone_and_need_none() -> None:
    device = FakeDevice(call_ms=80.0)
    timing = timed(device)
    assert len(timing.times_ms) == 5
    assert {event[1:] for event in device.happened if event[0] == "events"} == {(1, False, 0.0)}


def test_a_cold_call_is_alone_behind_a_flush() -> None:
    device = FakeDevice(call_ms=0.05, host_ms=0.2)
    timing = timed(device, l2="cold")
    assert timing.timer == "CUDA events around one call"
    flushed = [event for event in device.happened if event[0] == "events" and event[2]]
    assert len(flushed) == len(timing.times_ms) == 50
    assert all(calls == 1 and ahead > 0.2 for _, calls, _, ahead in flushed)


def test_a_graph_is_captured_once_and_is_warm() -> None:
    device = FakeDevice(call_ms=0.05)
    timing = timed(device, "graph")
    assert [event for event in device.happened if event[0] == "graph"] == [("graph", 20)]
    assert "graph of 20 calls" in timing.timer
    with pytest.raises(ValueError, match="under a graph"):
        timed(device, "graph", "cold")
