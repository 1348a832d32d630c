"""How time hangs on each resource."""

from math import log2

import pytest

import fasim
from fasim.verbs.elasticities import RESOURCES, doubled

H100 = fasim.load("h100")
PROBLEM = fasim.Attention(4, 16, 4096, 4096, 128)


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


def test_time_goes_as_they_say(flash):
    for name, override in (("sm_count", 2 * H100.gpu.sm_count), ("sfu.lanes", 32)):
        more = fasim.predict(
            PROBLEM, fasim.load("h100", {name: override}), implementation="flash-attn-2"
        )
        said = flash.elasticities[name.removesuffix(".lanes")]
        assert log2(more.time_s / flash.time_s) == pytest.approx(said, abs=1e-9)


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
