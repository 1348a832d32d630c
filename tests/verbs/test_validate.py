"""Validation: rows, groups, what is unsupported, bad files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fasim.verbs.measurements import COLUMNS, MeasurementError, published
from fasim.verbs.validate import validate

HEADER = ",".join((*COLUMNS, "extras"))
GOOD = "A,a100-sxm4-80gb,flash-attn-2,flash2,fwd,fp16,4,16,16,1024,1024,64,false,0,0.2,stream,warm,"
SLOWER = (
    GOOD.replace("A,", "B,", 1)
    .replace("flash-attn-2,flash2", "pytorch,standard")
    .replace(",0.2,", ",1.0,")
)


def write(tmp_path: Path, *rows: str) -> Path:
    file = tmp_path / "times.csv"
    file.write_text("\n".join((HEADER, *rows)) + "\n", encoding="utf-8")
    return file


def test_rows_groups_and_pairs(tmp_path: Path) -> None:
    validation = validate(write(tmp_path, GOOD, SLOWER))
    assert [row.measurement.id for row in validation.rows] == ["A", "B"]
    row = validation.rows[0]
    assert row.error == pytest.approx(row.predicted_ms / 0.2 - 1)
    assert {group.implementation for group in validation.groups} == {"flash-attn-2", "pytorch"}
    assert (validation.ordered, validation.pairs) == (1, 1)
    assert json.loads(json.dumps(validation.to_dict(), allow_nan=False))["rows"][0]["id"] == "A"


def test_launch_and_l2_are_inputs(tmp_path: Path) -> None:
    on_stream, in_graph, alone = validate(
        write(
            tmp_path,
            GOOD,
            GOOD.replace("stream", "graph"),
            GOOD.replace("stream", "kernel"),
        )
    ).rows
    assert on_stream.predicted_ms > in_graph.predicted_ms > alone.predicted_ms


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("fwd,fp16", "bwd,fp8"), "not fp8"),
        ((",false,0,", ",false,1.5,"), "dropout"),
        (("a100-sxm4-80gb", "riva128"), "riva128"),
        (("flash-attn-2", "my-kernel"), "my-kernel"),
        (("warm,", "warm,paged;sparse"), "sparse"),
        (("0.2,stream", ",stream"), "no time"),
        ((",16,16,", ",16,5,"), "kv_heads"),
        (("1024,1024", "1e3,1024"), "1e3"),
    ],
)
def test_unsupported_rows_are_listed_with_the_reason(
    tmp_path: Path, change: tuple[str, str], reason: str
) -> None:
    validation = validate(write(tmp_path, GOOD.replace(*change)))
    assert not validation.rows
    assert reason in validation.unsupported[0].reason


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "no column id"),
        (f"{HEADER}\n{GOOD.replace('0.2', 'soon')}\n", ":2: time_ms is 'soon'"),
        (f"{HEADER}\n{GOOD.replace('0.2', '-1')}\n", "must be a positive number"),
        (f"{HEADER}\n{GOOD.replace('0.2', 'nan')}\n", "must be a positive number"),
        (f"{HEADER}\n{GOOD.replace(',fwd,', ',up,')}\n", "direction is 'up'"),
        ("", "no column"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(MeasurementError, match=said.replace("(", r"\(")):
        validate(file)


def test_binary_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    file.write_bytes(bytes(range(256)) * 10)
    with pytest.raises(MeasurementError):
        validate(file)


def test_every_group_of_published_forward_times_is_within_fifteen_percent() -> None:
    """Sensible times: flash-attn-2 and pytorch, forward, N ≥ 1024: each group's median."""

    def keep(row: object) -> bool:
        fields = row.fields  # type: ignore[attr-defined]
        return (
            fields["implementation"] in ("flash-attn-2", "pytorch")
            and fields["direction"] == "fwd"
            and not fields["extras"]
            and int(fields["seqlen_k"]) >= 1024
        )

    validation = validate(published(), keep=keep)
    assert len(validation.rows) == 36
    assert not validation.unsupported
    for group in validation.groups:
        assert group.median <= 0.15, group
