"""The shipped profiles: complete, sourced, self-consistent and quick to load."""

import time

import pytest

from fasim.hardware import SHORT_NAMES, load, shipped
from fasim.hardware.fields import schema

REAL = {
    "a100-sxm4-80gb",
    "a100-sxm4-40gb",
    "a100-pcie-80gb",
    "h100-sxm5",
    "h100-pcie",
    "h200-sxm",
    "rtx4090",
    "rtx3090",
    "l40s",
    "l4",
    "b200-sxm",
}


def test_what_ships():
    assert set(shipped()) == REAL | {"hypothetical-h100-2x"}
    assert set(SHORT_NAMES.values()) <= REAL
    assert not set(SHORT_NAMES) & set(shipped())


@pytest.mark.parametrize("name", sorted(REAL | {"hypothetical-h100-2x"}))
def test_every_number_has_a_kind_and_a_source(name):
    profile = load(name)
    assert profile.resolved_name == name
    assert profile.notes == ()
    for path, field in schema().fields.items():
        if not field.is_number:
            continue
        if path not in profile.provenance:
            assert not field.required
            assert field.value(profile.gpu) is None
            continue
        origin = profile.provenance[path]
        assert origin.kind in ("specification", "measurement", "estimate"), path
        assert len(origin.source) > 10, path


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_clock_that_power_limits_has_a_time_constant(name):
    gpu = load(name).gpu
    limited = gpu.clock.sustained_tensor_hz is not None
    assert gpu.power.time_constant_s == (0.01 if limited else None)


@pytest.mark.parametrize("name", sorted(REAL))
def test_a_real_gpu_stands_on_its_own(name):
    assert load(name).extends == ()


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("h100", 794.5),
        ("h200", 794.5),
        ("h100-pcie", 495.9),
        ("l40s", 269.15),
        ("l4", 70.9),
        ("b200", 1745),
        ("rtx3090", 76.34),
    ],
)
def test_the_best_gemm_measured_is_what_the_sustained_clock_gives(name, tflops):
    gpu = load(name).gpu
    clock = gpu.clock.sustained_tensor_hz or gpu.clock.tensor_hz
    rate = gpu.tensor_core.flops_per_clock.fp16
    assert rate * gpu.sm_count * clock == pytest.approx(tflops * 1e12, rel=3e-3)


def test_the_best_gemm_measured_bounds_the_clock_of_rtx_4090_from_below():
    """Cards run at 2.6 to 2.75 GHz, above the clock of their data sheet; the profile has 2.675."""
    gpu = load("rtx4090").gpu
    rate = gpu.tensor_core.flops_per_clock.fp16 * gpu.sm_count
    assert 168.4e12 / rate < gpu.clock.tensor_hz < gpu.clock.boost_hz


@pytest.mark.parametrize(
    ("name", "bandwidth", "read", "mixed"),
    [
        ("a100-40", 1555e9, 1500e9, 1382e9),
        ("a100-80", 2039e9, 1776e9, 1737e9),
        ("h100-pcie", 2039e9, 1942e9, 1704e9),
        ("h100", 3352e9, None, 3010e9),
        ("h200", 4800e9, None, 4255e9),
        ("l40s", 864e9, 845e9, 800e9),
        ("rtx4090", 1008e9, None, 921e9),
    ],
)
def test_dram_reaches_what_was_measured(name, bandwidth, read, mixed):
    gpu = load(name).gpu
    assert gpu.dram.bandwidth_bytes_per_s == bandwidth
    assert gpu.dram_mixed_bytes_per_s == pytest.approx(mixed, rel=7e-3)
    if read:
        assert gpu.dram_read_bytes_per_s == pytest.approx(read, rel=7e-3)


def test_some_facts_people_know():
    a100, h100, rtx4090 = (load(name).gpu for name in ("a100", "h100", "4090"))
    assert (a100.sm_count, a100.shared_memory.capacity_bytes) == (108, 164 * 1024)
    assert (h100.sm_count, h100.shared_memory.max_block_bytes) == (132, 227 * 1024)
    assert (rtx4090.sm_count, rtx4090.dram.capacity_bytes) == (128, 24 * 2**30)
    assert "wgmma" in h100.features
    assert "wgmma" not in load("b200").gpu.features


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("a100", "a100-sxm4-80gb"),
        ("A100-40", "a100-sxm4-40gb"),
        ("h100", "h100-sxm5"),
        ("h200", "h200-sxm"),
        ("4090", "rtx4090"),
        ("RTX 3090", "rtx3090"),
        ("b200", "b200-sxm"),
    ],
)
def test_a_short_name_says_what_it_stands_for(asked, name):
    profile = load(asked)
    assert profile.resolved_name == name
    assert profile.notes == (f"{asked} stands for {name}",)


def test_loading_is_quick():
    load("h100")
    times = []
    for _ in range(5):
        start = time.perf_counter()
        load("a100")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.03
