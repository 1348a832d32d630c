"""What stands behind a predicted time."""

import json
from pathlib import Path

import pytest

import fasim
from fasim.verbs import trust as trust_module
from fasim.verbs.measured.measurement_file import read
from fasim.verbs.measured.measurements import Measurement, published
from fasim.verbs.trust import Like, Trust, regime, summarise, trust
from fasim.verbs.validate import ValidatedRow

A100 = fasim.load("a100")
PROBLEM = fasim.Attention(8, 32, 2048, 2048, 64)
DECODE = fasim.Attention(8, 32, 1, 2048, 64)


@pytest.fixture
def measured(monkeypatch):
    """Ten like cases of one kernel, one in ten of them over 10 % off; two of another."""
    groups = {
        Like("flash-attn-2", "forward", "sm_80", "long"): (10, 0.04, 0.10),
        Like("flash-attn-2", "forward", "sm_80", "decode"): (2, 0.04, 0.10),
        Like("xformers-cutlass", "forward", "sm_80", "long"): (5, 0.6, 1.5),
    }
    monkeypatch.setattr(trust_module, "_summary", lambda: groups)


@pytest.mark.usefixtures("measured")
def test_like_cases_make_a_band():
    found = trust(PROBLEM, A100, "flash-attn-2", 1e-3)
    assert (found.status, found.n, found.median_error, found.p90_error) == (
        "validated",
        10,
        0.04,
        0.10,
    )
    assert found.band_ms == pytest.approx((1 / 1.1, 1 / 0.9))


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    ("problem", "gpu", "implementation", "time_s"),
    [
        (PROBLEM, "h100", "flash-attn-2", 1e-3),  # another architecture
        (PROBLEM, "a100", "flash-attn-2", 1e-5),  # another regime
        (PROBLEM, "a100", None, 1e-3),  # nobody's kernel
        (PROBLEM, "a100", "flash-attn-2", None),  # no time
        (fasim.Attention(8, 32, 2048, 2048, 64, direction="backward"), "a100", "flash-attn-2", 1),
    ],
)
def test_other_cases_are_not_like(problem, gpu, implementation, time_s):
    assert trust(problem, fasim.load(gpu), implementation, time_s) == Trust("unvalidated")


@pytest.mark.usefixtures("measured")
def test_two_cases_are_too_few_and_an_error_of_everything_has_no_band():
    assert trust(DECODE, A100, "flash-attn-2", 1e-3).status == "unvalidated"
    assert trust(PROBLEM, A100, "xformers-cutlass", 1e-3).band_ms is None


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    ("gpu", "overrides"), [("a100", {"sm_count": 110}), ("hypothetical-h100-2x", None)]
)
def test_a_gpu_that_was_made_up_is_hypothetical(gpu, overrides):
    assert trust(PROBLEM, fasim.load(gpu, overrides), "flash-attn-2", 1e-3).status == "hypothetical"


def test_regimes():
    assert [regime(PROBLEM, 1e-3), regime(PROBLEM, 9e-5), regime(DECODE, 1e-3)] == [
        "long",
        "short",
        "decode",
    ]


def test_summary_counts_errors_by_what_makes_them_alike():
    def row(measured_ms, predicted_ms, gpu="a100-sxm4-80gb"):
        fields = {"batch": "8", "heads": "32", "kv_heads": "", "head_dim": "64", "dtype": "fp16"}
        fields |= {"seqlen_q": "2048", "seqlen_k": "2048", "causal": "false", "dropout": "0"}
        measurement = Measurement("x", gpu, "flash-attn-2", "fwd", measured_ms, None, fields)
        return ValidatedRow(measurement, measured_ms, predicted_ms)

    rows = [row(1.0, 1.1), row(1.0, 0.8, "a100-sxm4-40gb"), row(1.0, 0.05)]
    architectures = dict.fromkeys(("a100-sxm4-80gb", "a100-sxm4-40gb"), "sm_80")
    long, short = summarise(rows, architectures)
    assert (long["regime"], long["n"], long["median_error"]) == ("long", 2, 0.15)
    assert long["p90_error"] == pytest.approx(0.19)
    assert (short["regime"], short["n"]) == ("short", 1)


def test_the_summary_that_ships_is_read():
    assert Path(trust_module.SUMMARY).is_file()
    found = fasim.predict(PROBLEM, A100, implementation="flash-attn-1").trust
    assert found.status == "unvalidated"  # measured forward and backward together only
    both = fasim.Attention(8, 32, 2048, 2048, 64, direction="both")
    prediction = fasim.predict(both, A100, implementation="flash-attn-2")
    assert prediction.trust.status == "validated"
    low, high = prediction.trust.band_ms
    assert low < prediction.time_s * 1e3 < high


def test_the_summary_that_ships_is_current():
    """Against the rows that docs/accuracy.md prints, which a test of its own holds to be today's.

    They are rounded to four digits. `python -m tests.trust` writes the summary anew.
    """
    printed = (Path(__file__).parents[2] / "docs" / "accuracy.md").read_text(encoding="utf-8")
    block = printed.partition("$ fasim validate\n")[2].partition("\n```")[0]
    times = {
        cells[0]: float(cells[-3])
        for cells in map(str.split, block.splitlines())
        if len(cells) > 6 and cells[-1] == "%" and "-" in cells[0]
    }
    rows = [
        ValidatedRow(row, row.time_ms, times[row.id])
        for row in read(published()).rows
        if row.id in times and row.time_ms
    ]
    assert len(rows) > 300
    gpus = {row.measurement.gpu for row in rows}
    architectures = {name: fasim.load(name).gpu.architecture for name in gpus}
    shipped = json.loads(trust_module.SUMMARY.read_text(encoding="utf-8"))
    for now, then in zip(summarise(rows, architectures), shipped, strict=True):
        assert {**now, "median_error": 0, "p90_error": 0} == {
            **then,
            "median_error": 0,
            "p90_error": 0,
        }
        assert now["median_error"] == pytest.approx(then["median_error"], abs=0.001)
        assert now["p90_error"] == pytest.approx(then["p90_error"], abs=0.001)
