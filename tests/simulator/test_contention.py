from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasim.hardware import load
from fasim.readings.traffic import Access
from fasim.simulator.contention import (
    dram_bandwidth_bytes_per_s,
    exposed_burst,
    mean_wave_blocks,
    soft_maximum,
)

times = st.just(0.0) | st.floats(1e-9, 1e9)


@given(a=times, b=times)
def test_the_soft_maximum_lies_between_the_maximum_and_a_quarter_more(a, b):
    assert max(a, b) * (1 - 1e-12) <= soft_maximum(a, b) <= 2 ** (1 / 3) * max(a, b) * (1 + 1e-12)
    assert soft_maximum(a, b) == soft_maximum(b, a)


def test_the_limits_of_the_soft_maximum():
    assert soft_maximum(0, 0) == 0
    assert soft_maximum(5, 0) == pytest.approx(5)
    assert soft_maximum(1, 1) == pytest.approx(1.26, abs=0.001)
    assert soft_maximum(3, 1) == pytest.approx(3.036, abs=0.001)
    assert soft_maximum(1000, 1) == pytest.approx(1000)


def test_the_limits_of_a_burst():
    assert exposed_burst(0, 10, 10) == 0
    assert exposed_burst(10, 0, 0) == 10  # nothing to hide it behind
    assert exposed_burst(10, 10, 0) == 10  # the next loads always meet it
    assert exposed_burst(10, 1000, 0) == pytest.approx(0.1)  # one in a hundred does
    assert exposed_burst(10, 0, 1000) == 10  # DRAM has no gap to drain it in
    assert exposed_burst(10, 20, 15) == 5


@given(burst=times, compute=times, arrive=times)
def test_dram_carries_no_more_than_it_can(burst, compute, arrive):
    """A wave takes its loop and what is exposed: time enough for its loads and its writes."""
    exposed = exposed_burst(burst, compute, arrive)
    rounding = 1e-12 * (burst + arrive)
    assert 0 <= exposed <= burst + rounding
    assert max(compute, arrive) + exposed >= burst + arrive - rounding


@given(blocks=st.integers(1, 10**6), slots=st.integers(1, 10**4))
def test_mean_waves_hold_the_grid(blocks, slots):
    mean = mean_wave_blocks(blocks, slots)
    assert mean <= slots
    assert mean * -(-blocks // slots) == pytest.approx(blocks)


def test_bandwidth_falls_as_writes_mix_with_reads():
    gpu = load("a100").gpu

    def bandwidth(read, written):
        return dram_bandwidth_bytes_per_s(gpu, {"X": Access(read, written)})

    pins = gpu.dram.bandwidth_bytes_per_s
    assert bandwidth(100, 0) == bandwidth(0, 100) == pins * gpu.dram.read_efficiency
    assert bandwidth(100, 100) == pytest.approx(pins * gpu.dram.mixed_efficiency)
    rates = [bandwidth(100, written) for written in range(0, 101, 10)]
    assert all(after < before for before, after in pairwise(rates))
    assert bandwidth(0, 0) == pins * gpu.dram.read_efficiency
