import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasim.hardware import load, shipped
from fasim.simulator.clock import sm_clock_hz

LIMITED = load("h100").gpu
UNLIMITED = load("a100").gpu
GEMM = {"tensor": 0.93, "sfu": 0.0, "fp32": 0.1, "alu": 0.1}
shares = st.fixed_dictionaries({pipe: st.floats(0, 1) for pipe in ("tensor", "sfu", "fp32", "alu")})


@given(gpu=st.sampled_from(sorted(shipped())), busy=shares, sustained=st.booleans())
def test_the_clock_is_never_above_the_highest(gpu, busy, sustained):
    clock = load(gpu).gpu.clock
    hz = sm_clock_hz(load(gpu).gpu, busy, sustained)
    assert 0 < hz <= (clock.tensor_hz if busy["tensor"] else clock.boost_hz)


@given(busy=shares, pipe=st.sampled_from(("sfu", "fp32", "alu")), more=st.floats(0, 0.5))
def test_the_clock_falls_with_load(busy, pipe, more):
    loaded = {**busy, pipe: busy[pipe] + more}
    assert sm_clock_hz(LIMITED, loaded, True) <= sm_clock_hz(LIMITED, busy, True)


def test_a_full_gemm_runs_at_the_clock_it_was_measured_at():
    assert sm_clock_hz(LIMITED, GEMM, True) == pytest.approx(LIMITED.clock.sustained_tensor_hz)


def test_eight_times_the_load_halves_the_clock():
    low, high = ({"tensor": share} for share in (0.93, 8 * 0.93))
    slow, fast = (LIMITED.clock.sustained_tensor_hz * f for f in (1, 2))
    assert fast > LIMITED.clock.tensor_hz  # so the lighter load is not limited
    assert sm_clock_hz(LIMITED, low, True) <= LIMITED.clock.tensor_hz
    assert sm_clock_hz(LIMITED, high, True) == pytest.approx(slow * (1.05 / 0.93) ** (1 / 3) / 2)


def test_a_short_run_is_not_limited():
    assert sm_clock_hz(LIMITED, GEMM, False) == LIMITED.clock.tensor_hz


def test_a_gpu_whose_power_suffices_is_not_limited():
    assert UNLIMITED.clock.sustained_tensor_hz is None
    assert sm_clock_hz(UNLIMITED, GEMM, True) == UNLIMITED.clock.tensor_hz


def test_without_tensor_work_the_clock_is_the_boost_clock():
    assert sm_clock_hz(LIMITED, {}, True) == LIMITED.clock.boost_hz
