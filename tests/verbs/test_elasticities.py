"""How time hangs on each resource."""

from dataclasses import replace
from math import log2

import pytest

import fasim
from fasim.readings.traffic import traffic
from fasim.schedules.catalog import plan
from fasim.simulator.simulate import simulate
from fasim.verbs.elasticities import RESOURCES, doubled

H100 = fasim.load("h100")
PROBLEM = fasim.Attention(4, 16, 4096, 4096, 128)
DECODE = fasim.Attention(1, 32, 1, 16384, 128, kv_heads=8)
SCHEDULES = [
    ({"schedule": "flash2"}, PROBLEM),
    ({"schedule": "flash3"}, PROBLEM),
    ({"schedule": "standard"}, PROBLEM),
    ({"schedule": "split_kv"}, DECODE),
    ({"implementation": "flash-attn-2"}, replace(PROBLEM, direction="backward")),
]
# Twice the facts of hardware_profiles/h100-sxm5.yaml; of launches, half the time.
TWICE = {
    "sm_count": {"sm_count": 264},
    "sm_clock": {
        "clock.boost": "3.96 GHz",
        "clock.tensor": "3.66 GHz",
        "clock.sustained_tensor": "2.94 GHz",
    },
    "tensor_core": {
        "tensor_core.flops_per_clock.fp16": 8192,
        "tensor_core.flops_per_clock.bf16": 8192,
        "tensor_core.flops_per_clock.tf32": 4096,
        "tensor_core.flops_per_clock.fp8": 16384,
        "tensor_core.flops_per_clock.int8": 16384,
    },
    "sfu": {"sfu.lanes": 32},
    "fp32": {"fp32.lanes": 256},
    "alu": {"alu.lanes": 128},
    "shared_memory": {"shared_memory.bytes_per_clock": 256},
    "l2": {"l2.read_bytes_per_clock_per_sm": 72.8, "l2.write_bytes_per_clock_per_sm": 34.4},
    "dram": {"dram.bandwidth": "6.704 TB/s"},
    "launch": {"launch.stream": "1.185 us", "launch.graph": "0.63 us"},
}


@pytest.fixture(scope="module")
def flash():
    return fasim.predict(PROBLEM, H100, implementation="flash-attn-2")


def test_doubling_moves_the_resource_and_leaves_the_rest():
    facts = H100.gpu.model_dump()
    for resource, paths in RESOURCES.items():
        changed = doubled(H100.gpu, resource).model_dump()
        moved = {p for p in _leaves(facts) if _leaves(facts)[p] != _leaves(changed)[p]}
        assert moved == set(paths) - {p for p in paths if _leaves(facts)[p] is None}, resource


def _leaves(facts, prefix=""):
    found = {}
    for name, value in facts.items():
        path = f"{prefix}{name}"
        found |= _leaves(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return found


def test_an_unknown_resource_is_refused():
    with pytest.raises(KeyError):
        doubled(H100.gpu, "luck")


@pytest.mark.parametrize(("named", "problem"), SCHEDULES)
def test_time_goes_as_they_say(named, problem):
    """Twice of each resource, as a user writes it in a profile, under the same plan."""
    said = fasim.predict(problem, H100, **named)
    planned = plan(problem, H100.gpu, **named)
    exact = traffic(planned.kernels)
    assert set(said.elasticities) == set(TWICE)
    for resource, twice in TWICE.items():
        more = simulate(planned, exact, fasim.load("h100", twice).gpu, fasim.Scenario()).time_s
        share = log2(more / said.time_s)
        assert said.elasticities[resource] == pytest.approx(share, abs=1e-9), resource


def test_attention_in_registers_hangs_on_the_sms_and_not_on_dram(flash):
    assert flash.elasticities["sm_count"] == pytest.approx(-1, abs=0.05)
    assert flash.elasticities["dram"] == pytest.approx(0, abs=0.02)
    assert next(iter(flash.elasticities)) in ("sm_count", "sm_clock")


def test_a_chain_through_memory_hangs_on_dram():
    eager = fasim.predict(PROBLEM, fasim.load("a100"), implementation="pytorch")
    assert eager.elasticities["dram"] < -0.2


def test_what_does_not_fit_has_none():
    large = fasim.Attention(8, 32, 65536, 65536, 128)
    assert fasim.predict(large, H100, schedule="standard").elasticities == {}
