"""What each mechanism is worth, against measurements."""

import json

import pytest

from fasim.cli import main
from fasim.report.studies.ablation import ablation_text
from fasim.simulator.mechanisms import MECHANISMS, UnknownMechanism
from fasim.verbs.measured.measurement_file import COLUMNS
from fasim.verbs.studies.ablation import ablation_study

ROW = {
    "gpu": "a100-sxm4-80gb",
    "implementation": "flash-attn-2",
    "schedule": "flash2",
    "direction": "fwd",
    "dtype": "fp16",
    "heads": "8",
    "kv_heads": "8",
    "head_dim": "64",
    "causal": "false",
    "launch": "stream",
    "l2": "warm",
}


@pytest.fixture
def measured(tmp_path):
    """Four calls of one kernel; three say what the model says without launches, one nonsense."""
    return written(tmp_path / "rows.csv", causal=("false",))


@pytest.fixture
def masked_too(tmp_path):
    """The same calls, and each under a causal mask."""
    return written(tmp_path / "masked_too.csv", causal=("false", "true"))


def written(path, causal):
    lines = [",".join(COLUMNS)]
    for masks in causal:
        for number, seqlen in enumerate((512, 1024, 2048, 4096)):
            row = ROW | {"id": f"{number}{masks}", "batch": "1", "causal": masks}
            row |= {"seqlen_q": str(seqlen), "seqlen_k": str(seqlen)}
            row |= {"time_ms": str(0.02 * 2**number)}
            lines.append(",".join(row.get(column, "") for column in COLUMNS))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_every_mechanism_has_a_row_after_that_of_none(measured):
    study = ablation_study(measured, rows_per_group=1)
    assert [row.mechanism for row in study.rows] == ["", *MECHANISMS]
    assert study.rows[0].best is None
    json.dumps(study.to_dict(), allow_nan=False)
    by_name = {row.mechanism: row for row in study.rows}
    change = by_name["issue-order"].best
    assert change.group == ("a100-sxm4-80gb", "flash-attn-2", "fwd", "full")
    assert change.n == 1
    assert change.median_with == study.rows[0].overall.median
    assert change.median_without == by_name["issue-order"].overall.median
    assert by_name["power"].best.gain == 0  # an A100 is not limited by power


@pytest.mark.parametrize(("count", "rows"), [(None, 4), (3, 3), (2, 2), (9, 4)])
def test_rows_are_taken_evenly_from_each_group(measured, count, rows):
    study = ablation_study(measured, rows_per_group=count)
    assert study.rows[0].overall.n == rows


def test_causal_calls_are_a_group_of_their_own(masked_too):
    study = ablation_study(masked_too, mechanisms=("mask",), rows_per_group=2)
    assert study.rows[0].overall.n == 4
    causal, full = study.rows[1].groups
    assert (causal.group[3], causal.n, full.group[3], full.n) == ("causal", 2, "full", 2)
    assert causal.gain != 0 == full.gain
    assert study.to_dict()["rows"][1]["groups"] == [causal.to_dict(), full.to_dict()]
    assert {study.rows[1].best, study.rows[1].worst} == {causal, full}
    assert "flash-attn-2 fwd causal, a100-sxm4-80gb (2)" in ablation_text(study)


def test_the_text_names_every_mechanism_and_what_stands_in_for_it(measured):
    text = ablation_text(ablation_study(measured, rows_per_group=1))
    for name, mechanism in MECHANISMS.items():
        assert f"{name}: {mechanism.does}; without: {mechanism.without}" in text


def test_only_the_mechanisms_that_are_named_are_studied(measured):
    study = ablation_study(measured, mechanisms=("launch",), rows_per_group=1)
    assert [row.mechanism for row in study.rows] == ["", "launch"]
    assert "phases:" not in ablation_text(study)
    with pytest.raises(UnknownMechanism, match="no mechanism 'luck'"):
        ablation_study(measured, mechanisms=("luck",))


def validated(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["fasim", "validate", "--json", *words])
    with pytest.raises(SystemExit) as leaving:
        main()
    return leaving.value.code, capsys.readouterr()


def test_validate_switches_off_what_it_is_told_and_refuses_what_it_does_not_know(
    measured, capsys, monkeypatch
):
    words = ("--measured", str(measured))
    _, whole = validated(monkeypatch, capsys, *words)
    _, part = validated(monkeypatch, capsys, *words, "--without", "launch", "--without", "phases")
    before, after = json.loads(whole.out), json.loads(part.out)
    assert (before["without"], after["without"]) == ([], ["launch", "phases"])
    for row, lighter in zip(before["rows"], after["rows"], strict=True):
        assert lighter["predicted_ms"] < row["predicted_ms"]
    status, printed = validated(monkeypatch, capsys, *words, "--without", "luck")
    assert status == 2
    assert "no mechanism 'luck'" in printed.err
