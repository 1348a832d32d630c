from itertools import pairwise
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasim.hardware import load, shipped
from fasim.simulator.clock import sm_clock_hz

LIMITED = load("h100").gpu
UNLIMITED = load("a100").gpu
TIME_CONSTANT_S = LIMITED.power.time_constant_s
GEMM = {"tensor": 0.93, "sfu": 0.0, "fp32": 0.1, "alu": 0.1}
shares = st.fixed_dictionaries({pipe: st.floats(0, 1) for pipe in ("tensor", "sfu", "fp32", "alu")})
seconds = st.floats(1e-9, 1e3)
ROUNDING = 1 + 1e-12


@given(
    gpu=st.sampled_from(sorted(shipped())),
    busy=shares,
    run=st.sampled_from(("short", "sustained")) | seconds,
)
def test_the_clock_is_never_above_the_highest(gpu, busy, run):
    clock = load(gpu).gpu.clock
    hz = sm_clock_hz(load(gpu).gpu, busy, run)
    assert 0 < hz <= (clock.tensor_hz if busy["tensor"] else clock.boost_hz)


@given(
    busy=shares,
    pipe=st.sampled_from(("sfu", "fp32", "alu")),
    more=st.floats(0, 0.5),
    run=st.just("sustained") | seconds,
)
def test_the_clock_falls_with_load(busy, pipe, more, run):
    loaded = {**busy, pipe: busy[pipe] + more}
    assert sm_clock_hz(LIMITED, loaded, run) <= sm_clock_hz(LIMITED, busy, run) * ROUNDING


def test_a_full_gemm_runs_at_the_clock_it_was_measured_at():
    clock_hz = sm_clock_hz(LIMITED, GEMM, "sustained")
    assert clock_hz == pytest.approx(LIMITED.clock.sustained_tensor_hz)


def test_eight_times_the_load_halves_the_clock():
    low, high = ({"tensor": share} for share in (0.93, 8 * 0.93))
    slow, fast = (LIMITED.clock.sustained_tensor_hz * f for f in (1, 2))
    assert fast > LIMITED.clock.tensor_hz  # so the lighter load is not limited
    assert sm_clock_hz(LIMITED, low, "sustained") <= LIMITED.clock.tensor_hz
    halved = slow * (1.05 / 0.93) ** (1 / 3) / 2
    assert sm_clock_hz(LIMITED, high, "sustained") == pytest.approx(halved)


def test_a_short_run_is_not_limited():
    assert sm_clock_hz(LIMITED, GEMM, "short") == LIMITED.clock.tensor_hz


@given(busy=shares)
def test_a_run_of_no_length_is_short_and_an_endless_one_sustained(busy):
    for run, limit in ((1e-9, "short"), (1e6, "sustained")):
        limit_hz = sm_clock_hz(LIMITED, busy, limit)
        assert sm_clock_hz(LIMITED, busy, run) == pytest.approx(limit_hz, rel=1e-6)


@given(busy=shares, runs=st.tuples(seconds, seconds).map(sorted))
def test_the_longer_the_run_the_lower_its_mean_clock(busy, runs):
    clocks = [sm_clock_hz(LIMITED, busy, run) for run in ("short", *runs, "sustained")]
    assert all(slow <= fast * ROUNDING for fast, slow in pairwise(clocks))


@pytest.mark.parametrize("time_constants", [0.1, 1, 3])
def test_the_clock_of_a_run_is_the_mean_of_an_exponential_fall(time_constants):
    """Against its course, summed in steps."""
    highest, steady = (sm_clock_hz(LIMITED, GEMM, run) for run in ("short", "sustained"))
    steps = 1000
    fall = sum(exp(-time_constants * (step + 0.5) / steps) for step in range(steps)) / steps
    mean = sm_clock_hz(LIMITED, GEMM, time_constants * TIME_CONSTANT_S)
    assert steady < mean < highest
    assert mean == pytest.approx(steady + (highest - steady) * fall, rel=1e-6)


def test_without_a_time_constant_the_limit_acts_at_once():
    power = LIMITED.power.model_copy(update={"time_constant_s": None})
    gpu = LIMITED.model_copy(update={"power": power})
    assert sm_clock_hz(gpu, GEMM, 1e-6) == sm_clock_hz(gpu, GEMM, "sustained")
    assert sm_clock_hz(gpu, GEMM, "short") == gpu.clock.tensor_hz


@pytest.mark.parametrize("run", ["short", 1.0, "sustained"])
def test_a_gpu_whose_power_suffices_is_not_limited(run):
    assert UNLIMITED.clock.sustained_tensor_hz is None
    assert sm_clock_hz(UNLIMITED, GEMM, run) == UNLIMITED.clock.tensor_hz


def test_without_tensor_work_the_clock_is_the_boost_clock():
    assert sm_clock_hz(LIMITED, {}, "sustained") == LIMITED.clock.boost_hz
