"""CSV files: a line that cannot be read costs itself and no other, and is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasim.verbs.measured.csv_table import MAX_FILE_BYTES, Table, TableError, read_table

COLUMNS = ("id", "note", "value")


def table_of(tmp_path: Path, content: str | bytes) -> Table:
    file = tmp_path / "table.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(file, COLUMNS, {"value"})


def ids(table: Table) -> list[str]:
    return [fields["id"] for _, fields in table.rows]


def faults(table: Table) -> list[tuple[int, str]]:
    return [(fault.line, fault.reason) for fault in table.unreadable]


def test_rows_have_lines_and_cells_without_blanks(tmp_path: Path) -> None:
    table = table_of(tmp_path, 'id, note ,value\r\na, x ,1\r\n\r\nb,"y, z",2,\r\n')
    assert table.rows == (
        (2, {"id": "a", "note": "x", "value": "1"}),
        (4, {"id": "b", "note": "y, z", "value": "2"}),
    )
    assert not table.unreadable
    assert len(table.sha256) == 64


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    assert ids(table_of(tmp_path, b"\xef\xbb\xbfid,note,value\na,x,1\n")) == ["a"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("b,y", "half-written: 2 of 3 cells"),
        ("b,y,2,3", "4 cells below 3 columns"),
        ('b,"y,2', "half-written: a quote is not closed"),
        (b"b,\xff,2", "not UTF-8"),
    ],
)
def test_a_bad_line_leaves_those_around_it(tmp_path: Path, line: str | bytes, reason: str) -> None:
    bad = line.encode() if isinstance(line, str) else line
    table = table_of(tmp_path, b"id,note,value\na,x,1\n" + bad + b"\nc,z,3\nd,z,4\n")
    assert ids(table) == ["a", "c", "d"]
    assert faults(table) == [(3, reason)]


def test_a_quoted_cell_may_hold_lines(tmp_path: Path) -> None:
    table = table_of(tmp_path, 'id,note,value\na,"x\ny",1\nb,y,2\n')
    assert [line for line, _ in table.rows] == [2, 4]
    assert table.rows[0][1]["note"] == "x\ny"


@pytest.mark.parametrize("end", range(1, len("b,yes,234") + 1))
def test_wherever_writing_stopped_the_rows_before_stay(tmp_path: Path, end: int) -> None:
    """A last number without the end of its line may lack digits: 2 of 234."""
    table = table_of(tmp_path, "id,note,value\na,x,1\n" + "b,yes,234"[:end])
    assert ids(table) == ["a"]
    assert [line for line, _ in faults(table)] == [3]
    assert faults(table)[0][1].startswith("half-written: ")


def test_a_last_line_that_ends_in_text_needs_no_newline(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("id,value,note\na,1,x", encoding="utf-8")
    assert ids(read_table(file, COLUMNS, {"value"})) == ["a"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file"),
        (b" \n\n", "an empty file"),
        (b"id,value\n1,2\n", ":1: no column note"),
        (b"id,note,value,id\n", ":1: id: a column stands twice"),
        (bytes(range(256)), "not a CSV file in UTF-8"),
        (b"\n\nid,note,value\n", "the first line names no columns"),
    ],
)
def test_a_file_without_columns_is_refused_in_a_line(
    tmp_path: Path, content: bytes, said: str
) -> None:
    with pytest.raises(TableError) as refused:
        table_of(tmp_path, content)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no such file"):
        read_table(tmp_path / "none.csv", COLUMNS)
    with pytest.raises(TableError, match="is a directory"):
        read_table(tmp_path, COLUMNS)
    large = tmp_path / "large.csv"
    with large.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(TableError, match="larger than 64 MiB"):
        read_table(large, COLUMNS)


@given(st.binary(max_size=300))
def test_any_bytes_below_the_columns_lose_no_row_above_them(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes
) -> None:
    table = table_of(tmp_path_factory.mktemp("table"), b"id,note,value\na,x,1\n" + garbage)
    assert ids(table)[0] == "a"
    lines = [line for line, _ in table.rows] + [fault.line for fault in table.unreadable]
    assert len(set(lines)) == len(lines)
