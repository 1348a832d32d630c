"""Rows are on the disk one by one; a run goes on where another was stopped."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from gpu_kernels.measure.row_file import COLUMNS, RowFile, RowFileError


def test_a_row_is_there_before_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    with RowFile(path) as file:
        file.add({"id": "A", "notes": 'of "two", kinds'})
        (row,) = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    assert (row["id"], row["notes"], row["time_ms"]) == ("A", 'of "two", kinds', "")
    assert COLUMNS[-1] == "notes"


def test_a_run_goes_on_and_drops_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    with RowFile(path) as file:
        file.add({"id": "A"})
        file.add({"id": "B"})
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole + "HALF,h200-sxm,gpu-k", encoding="utf-8")
    with RowFile(path) as file:
        assert "A" in file
        assert "HALF" not in file
        file.add({"id": "C"})
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[0] for line in lines] == ["id", "A", "B", "C"]


def test_half_of_the_columns_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    path.write_text("id,gpu,impl", encoding="utf-8")
    with pytest.raises(RowFileError, match="holds something else"):
        RowFile(path)


def test_another_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear all,\nyours", encoding="utf-8")
    with pytest.raises(RowFileError, match=r"letter\.txt: holds something else"):
        RowFile(path)
    assert path.read_text(encoding="utf-8") == "Dear all,\nyours"


def test_a_folder_that_is_not_there_is_a_line(tmp_path: Path) -> None:
    with pytest.raises(RowFileError, match=r"run\.csv: cannot be written: No such file"):
        RowFile(tmp_path / "nowhere" / "run.csv")


def test_an_unknown_column_is_an_error(tmp_path: Path) -> None:
    with RowFile(tmp_path / "run.csv") as file, pytest.raises(KeyError, match="no column speed"):
        file.add({"id": "A", "speed": "1"})
