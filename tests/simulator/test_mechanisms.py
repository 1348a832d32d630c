"""Every mechanism acts somewhere, can be switched off, and comes back."""

from dataclasses import replace

import pytest

import fasim
from fasim.schedules import catalog
from fasim.schedules.record import record
from fasim.simulator.lowering import lower, main_loop
from fasim.simulator.mechanisms import (
    MECHANISMS,
    UnknownMechanism,
    idealised,
    is_on,
    without,
)

CAUSAL = fasim.Attention(1, 16, 4096, 4096, 128, causal=True)
SQUARE = fasim.Attention(4, 16, 2048, 2048, 64)
LARGE = fasim.Attention(64, 16, 1024, 1024, 64)
# Where each of them is worth over one part in a thousand.
ACTS = {
    "issue-order": ("h100", "flash-attn-2", CAUSAL),
    "exchange": ("a100", "flash-attn-1", SQUARE),
    "barriers": ("a100", "flash-attn-1", SQUARE),
    "mask": ("h100", "flash-attn-2", CAUSAL),
    "waves": ("h100", "flash-attn-2", CAUSAL),
    "phases": ("a100", "flash-attn-1", SQUARE),
    "l2-port": ("a100", "flash-attn-1", SQUARE),
    "l2-capacity": ("a100", "pytorch", SQUARE),
    "dram-efficiency": ("a100", "pytorch", SQUARE),
    "contention": ("a100", "pytorch", SQUARE),
    "write-bursts": ("a100", "pytorch", SQUARE),
    "streaming-issue": ("a100", "pytorch", SQUARE),
    "power": ("h100", "flash-attn-2", CAUSAL),
    "launch": ("a100", "pytorch", SQUARE),
}


def time_s(name):
    gpu, implementation, problem = ACTS[name]
    return fasim.predict(problem, fasim.load(gpu), implementation=implementation).time_s


def test_every_mechanism_is_tried():
    assert set(ACTS) == set(MECHANISMS)


@pytest.mark.parametrize("name", ACTS)
def test_a_mechanism_costs_time_where_it_acts_and_comes_back(name):
    whole = time_s(name)
    with without([name]):
        assert not is_on(name)
        assert time_s(name) < whole * 0.999
    assert is_on(name)
    assert time_s(name) == whole


@pytest.mark.parametrize("implementation", ["flash-attn-2", "triton-2.1"])
def test_without_the_mask_a_causal_loop_is_a_full_one(implementation):
    """Triton 2.1 has one loop over all tiles, which all take the mask's instructions."""
    gpu = fasim.load("a100").gpu

    def loop(problem):
        recorded = record(catalog.plan(problem, gpu, implementation=implementation).kernels[0])
        return lower(recorded, gpu, main_loop(recorded))

    full, causal = loop(replace(CAUSAL, causal=False)), loop(CAUSAL)
    assert causal.masked != full.plain
    with without(["mask"]):
        bare = loop(CAUSAL)
    assert bare.plain == bare.masked == full.plain


def fails_without(*names):
    with without(names):
        assert not any(is_on(name) for name in names)
        raise RuntimeError


def test_switches_add_up():
    with without(["power"]), without(["launch"]):
        assert not is_on("power")
        assert not is_on("launch")


def test_switches_are_undone_when_something_fails():
    with pytest.raises(RuntimeError):
        fails_without("power", "launch")
    assert is_on("power")
    assert is_on("launch")


def test_an_unknown_mechanism_is_refused_with_those_there_are():
    with (
        pytest.raises(UnknownMechanism, match="no mechanism 'luck'; there are issue-order"),
        without(["luck"]),
    ):
        pass


def test_nothing_is_idealised_unasked():
    gpu = fasim.load("h100").gpu
    assert idealised(gpu) is gpu
    with without(["power"]):
        assert idealised(gpu).clock.sustained_tensor_hz is None


def test_stalls_still_sum_to_the_time():
    for name, (gpu, implementation, problem) in ACTS.items():
        with without([name]):
            prediction = fasim.predict(problem, fasim.load(gpu), implementation=implementation)
        assert sum(prediction.stalls_s.values()) == pytest.approx(prediction.time_s, rel=1e-6), name
