"""Measured operators: what ran, what cannot be said, bad files."""

from pathlib import Path

import pytest

from fasim.operators import gemm, over_elements, over_rows
from fasim.problem import Scenario
from fasim.verbs.measured.csv_table import TableError
from fasim.verbs.measured.measurements import Unsupported
from fasim.verbs.measured.operator_measurements import (
    COLUMNS,
    OperatorMeasurement,
    is_of_operators,
    published,
    read,
)
from fasim.verbs.validate_operators import validate_operators

ROWS = {row.id: row for row in read(published()).rows}
GOOD = "A,a100-sxm4-80gb,GEMM (cuBLAS),fp16,512,512,512,tflops,30,somebody,"


def write(tmp_path: Path, *rows: str) -> Path:
    file = tmp_path / "operators.csv"
    file.write_text("\n".join((",".join(COLUMNS), *rows)) + "\n", encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("id_", "operator", "scenario"),
    [
        ("GEMM-0003", gemm(8192, 8192, 8192), Scenario()),
        ("AICM-0001", gemm(16, 1024, 2048, dtype="bf16"), Scenario("graph", "cold")),
        ("LLC-0054", gemm(2048, 2048, 128, 192), Scenario("kernel")),
        ("LLC-0055", gemm(2048, 128, 2048, 192), Scenario("kernel")),
        ("LLC-0059", over_rows("softmax", 192 * 2048, 2048), Scenario("kernel")),
        ("LLC-0021", over_rows("softmax", 4096, 32), Scenario("kernel")),
        ("LLC-0052", over_elements("elementwise", 536870912, "gelu"), Scenario("kernel")),
        (
            "BW-0003",
            over_elements("copy", 4096**2, dtype="fp32"),
            Scenario("kernel", "cold"),
        ),
        (
            "BW-0007",
            over_elements("elementwise", 2**28, "triad", "fp32"),
            Scenario("kernel", "cold"),
        ),
        ("BW-0029", over_rows("reduce", 2**16, 4096, dtype="fp32"), Scenario("kernel", "cold")),
    ],
)
def test_what_ran(id_: str, operator: object, scenario: Scenario) -> None:
    assert ROWS[id_].operator == operator
    assert ROWS[id_].scenario == scenario


def test_three_projections_are_three_calls() -> None:
    assert (ROWS["LLC-0053"].repeats, ROWS["LLC-0056"].repeats) == (3, 1)
    assert ROWS["LLC-0053"].host_floor_s == 3 * ROWS["LLC-0056"].host_floor_s > 0


def test_a_measured_time_of_each_metric() -> None:
    assert ROWS["LLC-0054"].time_s(0) == pytest.approx(1.881123e-3)
    assert ROWS["GEMM-0003"].time_s(0) == pytest.approx(2 * 8192**3 / 158.596e12)
    assert ROWS["BW-0004"].time_s(1503 * 10**9) == pytest.approx(1)


@pytest.mark.parametrize(
    ("id_", "reason"),
    [
        ("L4N-0001", "not a library's"),
        ("BW-0028", "rate of L2 alone"),
        ("BW-0017", "too few blocks"),
    ],
)
def test_rows_that_are_not_predicted_say_why(id_: str, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        _ = ROWS[id_].operator


def test_every_published_row_is_an_operator_or_says_why() -> None:
    def known(row: OperatorMeasurement) -> bool:
        try:
            return bool(row.operator)
        except Unsupported:
            return False

    assert len(ROWS) == 169
    assert sum(known(row) for row in ROWS.values()) == 169 - 8 - 4 - 1


def test_rows_groups_and_reasons(tmp_path: Path) -> None:
    short = GOOD.replace("somebody", "PrincetonUniversity/LLMCompass:x").replace("A,", "B,", 1)
    file = write(
        tmp_path,
        GOOD,
        short,
        GOOD.replace("a100-sxm4-80gb", "a40"),
        GOOD.replace("512,512", ",512"),
    )
    assert is_of_operators(file)
    validation = validate_operators(file)
    (row,) = validation.rows
    assert row.measured_ms == pytest.approx(2 * 512**3 / 30e9)
    assert row.error == pytest.approx(row.predicted_ms / row.measured_ms - 1)
    (group,) = validation.groups
    assert (group.gpu, group.kind, group.n) == ("a100-sxm4-80gb", "gemm", 1)
    assert [group.median_error, group.p90_error] == pytest.approx([abs(row.error)] * 2)
    reasons = " ".join(each.reason for each in validation.unsupported)
    assert len(validation.unsupported) == 3
    assert "floor of 20 us" in reasons
    assert "a40" in reasons


def test_bad_files_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no such file"):
        read(tmp_path / "none.csv")
    bad = tmp_path / "bad.csv"
    bad.write_text("id,gpu\nA,a100\n", encoding="utf-8")
    assert not is_of_operators(bad)
    with pytest.raises(TableError, match="no column operator"):
        read(bad)


def test_a_bad_value_costs_its_line_and_is_named(tmp_path: Path) -> None:
    file = read(write(tmp_path, GOOD.replace(",30,", ",fast,"), GOOD))
    assert len(file.rows) == 1
    ((line, reason),) = [(each.line, each.reason) for each in file.unreadable]
    assert (line, reason) == (2, "value is 'fast'; it must be a positive number")
