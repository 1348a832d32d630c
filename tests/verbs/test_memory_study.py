"""What training a model holds, with P saved and with P recomputed."""

import json

import pytest

from fasim.hardware import load
from fasim.problem import ProblemError
from fasim.report.studies.memory import memory_text
from fasim.verbs.studies.memory import MemoryStudy, memory_study


def study(**changed: int) -> MemoryStudy:
    sizes = {"layers": 24, "hidden": 1024, "heads": 16, "seqlen": 2048, "batch": 8} | changed
    return memory_study(profile=load("a100-sxm4-40gb"), **sizes)


def test_states_are_as_one_to_one_to_six() -> None:
    found = study()
    assert found.parameters == 12 * 24 * 1024**2
    assert found.gradient_bytes == found.parameter_bytes == 2 * found.parameters
    assert found.optimizer_bytes == 6 * found.parameter_bytes


def test_standard_saves_p_and_flash_its_row_sums() -> None:
    standard, flash = study().ways
    token_bytes = 8 * 2048 * 1024 * 2
    qkv = dict.fromkeys("QKV", token_bytes)
    assert standard.by_tensor == qkv | {"P": 8 * 16 * 2048**2 * 2}
    assert flash.by_tensor == qkv | {"O": token_bytes, "LSE": 8 * 16 * 2048 * 4}
    states = 16 * 12 * 24 * 1024**2
    for way in (standard, flash):
        assert way.bytes == 24 * sum(way.by_tensor.values())
        assert way.total_bytes == states + way.bytes
    assert flash.fits
    twice = study(seqlen=4096).ways
    assert twice[0].by_tensor["P"] == 4 * standard.by_tensor["P"]
    assert twice[1].bytes == 2 * flash.bytes


def test_memory_runs_out_where_the_arithmetic_says() -> None:
    for batch in (8, 9, 10, 11):
        for way in study(batch=batch).ways:
            assert way.fits is (way.total_bytes <= 40 * 2**30)
    assert not study(batch=64).ways[0].fits
    assert "out of memory" in memory_text(study(batch=64))
    assert json.loads(json.dumps(study().to_dict(), allow_nan=False))["layers"] == 24


def test_bad_numbers_are_a_line() -> None:
    with pytest.raises(ProblemError, match="heads must divide hidden"):
        study(heads=15)
    with pytest.raises(ProblemError, match="layers is 0"):
        study(layers=0)
