"""Naive, safe and online softmax: what a pass more costs, and what it buys."""

import json

import pytest

import fasim
from fasim.hardware import load
from fasim.problem import Attention, ProblemError, Scenario
from fasim.report.predictions import comparison_text, prediction_text
from fasim.report.studies.softmax import softmax_text
from fasim.schedules import catalog
from fasim.verbs.compare import compare
from fasim.verbs.studies.softmax import softmax_study


def test_accesses_are_counted_and_online_is_as_cheap_as_naive() -> None:
    naive, safe, online = softmax_study(65536, 8192, load("a100")).ways
    assert [(w.loads, w.stores) for w in (naive, safe, online)] == [(2, 1), (3, 1), (2, 1)]
    assert [w.survives for w in (naive, safe, online)] == [False, True, True]
    # Rows that L2 does not keep: bytes, and so the time, are as 4 to 3.
    assert safe.time_s / online.time_s == pytest.approx(4 / 3, rel=0.03)
    assert online.time_s == pytest.approx(naive.time_s, rel=0.03)
    assert {w.bound for w in (naive, safe, online)} == {"dram"}


def test_bytes_lie_between_compulsory_and_global_and_l2_saves_short_rows() -> None:
    cold = Scenario(l2="cold")  # warm, some of S need not come at all
    short, long = (
        softmax_study(65536, columns, load("a100"), cold).ways[1] for columns in (512, 8192)
    )
    for way in (short, long):
        kept = load("a100").gpu.l2.capacity_bytes  # what was written last is still in L2
        assert way.bytes_at["compulsory"] <= way.bytes_at["dram"] + kept
        assert way.bytes_at["dram"] <= way.bytes_at["global"]
    assert short.bytes_at["dram"] / short.bytes_at["global"] < 0.7
    assert long.bytes_at["dram"] == pytest.approx(long.bytes_at["global"], rel=0.01)


def test_any_shape_and_dtype_and_a_line_for_what_does_not_fit() -> None:
    study = softmax_study(1, 3, load("h100"), dtype="bf16")
    assert [way.loads for way in study.ways] == [2, 3, 2]
    assert "overflow" in softmax_text(study)
    assert json.loads(json.dumps(study.to_dict(), allow_nan=False))["columns"] == 3
    with pytest.raises(ProblemError, match="seqlen_q is 0"):
        softmax_study(0, 3, load("h100"))
    with pytest.raises(ProblemError, match="GiB of device memory"):
        softmax_study(1 << 20, 1 << 16, load("a100"))


def test_named_they_predict_and_compare_unnamed_they_stay_away() -> None:
    problem = Attention(1, 2, 256, 512, 64)
    a100 = load("a100")
    prediction = fasim.predict(problem, a100, schedule="softmax-safe")
    assert prediction.tflops_per_s is None
    text = prediction_text(prediction)
    assert "TFLOP/s" not in text
    assert "operations: fp32" in text
    named = compare(problem, [a100], schedules=list(catalog.SOFTMAXES))
    assert "softmax-online" in comparison_text(named)
    unnamed = compare(problem, [a100])
    assert not {row.prediction.schedule for row in unnamed.rows} & set(catalog.SOFTMAXES)
    assert fasim.predict(problem, a100).schedule not in catalog.SOFTMAXES
