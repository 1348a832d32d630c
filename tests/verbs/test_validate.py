"""Validation: rows, groups, what is unsupported, bad files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fasim.verbs.measured.measurement_file import COLUMNS
from fasim.verbs.measured.measurements import Measurement, MeasurementError, published
from fasim.verbs.validate import validate
from fasim.verbs.validation_workers import ROWS_WORTH_A_PROCESS, predict_rows

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
    document = json.loads(json.dumps(validation.to_dict(), allow_nan=False))
    assert document["rows"][0]["id"] == "A"
    assert document["rows"][0]["problem"]["seqlen_q"] == 1024
    assert document["pairs"] == {"compared": 1, "ordered": 1, "share": 1.0}
    assert document["pairs_over_10_percent"] == document["pairs"]
    assert document["overall"]["n"] == 2
    assert validation.agrees


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
    cold, unknown, warm = validate(
        write(
            tmp_path,
            GOOD.replace("warm", "cold"),
            GOOD.replace("warm", "unknown"),
            GOOD,
        )
    ).rows
    assert cold.predicted_ms > unknown.predicted_ms == warm.predicted_ms


def test_extras_are_inputs(tmp_path: Path) -> None:
    decode = GOOD.replace("1024,1024,64", "1,4096,64")
    plain, paged, written = validate(
        write(tmp_path, decode, decode + "paged", decode + "kv-write;paged")
    ).rows
    assert plain.predicted_ms != paged.predicted_ms
    assert written.predicted_ms > paged.predicted_ms
    assert written.to_dict()["options"] == {"page_size": 16, "writes_kv": True}


def test_rows_with_bytes_are_compared_with_modelled_dram_bytes(tmp_path: Path) -> None:
    file = tmp_path / "times.csv"
    large = GOOD.replace(",4,16,16,", ",16,16,16,")
    both, bytes_alone = f"{large},0.2", f"{large.replace('0.2,stream', ',stream')},0.4"
    file.write_text(f"{HEADER},hbm_gb\n{both}\n{bytes_alone}\n{GOOD},\n", encoding="utf-8")
    validation = validate(file)
    assert len(validation.rows) == len(validation.bytes) == 2
    first, second = validation.bytes
    # Q, K, V and O of 4 x 16 x 1024 x 64 halves are 33.6 MB, and fit the L2.
    # Q, K, V and O of 16 x 16 x 1024 x 64 halves are 134 MB; O, a quarter, may stay in L2.
    assert 0.09 < first.predicted_gb == second.predicted_gb < 0.14
    assert first.error == pytest.approx(first.predicted_gb / 0.2 - 1)
    bytes_ = validation.to_dict()["dram_bytes"]
    assert bytes_["overall"]["n"] == 2
    assert "slope" not in bytes_["overall"]


def test_a_wrong_output_is_no_agreement_and_an_error_of_time_is(tmp_path: Path) -> None:
    file = tmp_path / "times.csv"
    lines = [f"{HEADER},output_ok", f"{GOOD.replace(',0.2,', ',9.9,')},true", f"{GOOD},"]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert validate(file).agrees
    lines.append(f"{GOOD.replace('A,', 'B,', 1)},false")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    validation = validate(file)
    assert not validation.agrees
    assert validation.wrong_outputs == ("B",)


def test_what_cannot_be_read_is_named_and_the_rest_is_used(tmp_path: Path) -> None:
    half = GOOD[: GOOD.index(",0.2") + 2]
    file = tmp_path / "times.csv"
    lines = (HEADER, GOOD, GOOD.replace("0.2", "soon"), SLOWER, half)
    file.write_text("\n".join(lines), encoding="utf-8")
    validation = validate(file)
    assert [row.measurement.id for row in validation.rows] == ["A", "B"]
    assert [line.line for line in validation.unreadable] == [3, 5]
    assert "time_ms is 'soon'" in validation.unreadable[0].reason
    assert "half-written" in validation.unreadable[1].reason


def test_rows_of_operators_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "times.csv"
    operator = ",".join("L" if name == "id" else "" for name in COLUMNS)
    file.write_text(f"{HEADER},operator\n{GOOD},\n{operator},,launch stream\n", encoding="utf-8")
    validation = validate(file)
    assert (len(validation.rows), validation.operator_rows) == (1, 1)
    assert not validation.unreadable


@pytest.mark.slow
def test_two_processes_find_what_one_finds() -> None:
    def keep(row: Measurement) -> bool:
        return row.gpu in ("rtx4090", "h200-sxm") or row.id.startswith("AICA-006")

    one, two = (validate(published(), keep=keep, processes=n) for n in (1, 2))
    assert len(one.rows) + len(one.unsupported) >= 2 * ROWS_WORTH_A_PROCESS
    assert one == two
    assert one.to_dict() == two.to_dict()


def test_results_come_in_the_order_of_the_rows_with_progress(tmp_path: Path) -> None:
    rows = [GOOD, SLOWER, GOOD.replace("A,", "C,", 1).replace("a100-sxm4-80gb", "riva128")]
    seen: list[tuple[int, int]] = []
    validation = validate(write(tmp_path, *rows), progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert [row.id for row in validation.unsupported] == ["C"]
    assert predict_rows([]) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("fwd,fp16", "bwd,fp8"), "not fp8"),
        ((",false,0,", ",false,1.5,"), "dropout"),
        (("a100-sxm4-80gb", "riva128"), "riva128"),
        (("flash-attn-2", "my-kernel"), "my-kernel"),
        (("warm,", "warm,paged;sparse"), "sparse"),
        (("0.2,stream", ",stream"), "neither a time nor bytes"),
        ((",16,16,", ",16,5,"), "kv_heads"),
        (("stream,", "rocket,"), "rocket"),
        (("warm,", "hot,"), "hot"),
        ((",false,", ",maybe,"), "maybe"),
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
        ("", "an empty file"),
        (f"{HEADER}\n", "no measurement of attention"),
        (f"{HEADER}\n{GOOD}\n".replace("time_ms", "time"), "no column time_ms"),
        (f"{HEADER}\n{GOOD[:40]}", ":2: half-written"),
        (f"{HEADER}\nA,B\nC,D\n", "nor can 1 more"),
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
