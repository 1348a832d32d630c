"""A CSV file as rows of named cells, and the lines that hold none.

A line that cannot be read costs itself and no other: half-written ones end files that a
measuring run was writing when it was stopped. Each is named with its number and the reason.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path

MAX_FILE_BYTES = 64 * 2**20
NOT_UTF8 = "\ufffd"  # what decoding leaves of bytes that are not UTF-8


class TableError(ValueError):
    """A file of which nothing can be used; the message says where and why."""


@dataclass(frozen=True)
class UnreadableLine:
    """A line of a file that holds no row, and why."""

    line: int
    reason: str


@dataclass(frozen=True)
class Table:
    """What a CSV file holds.

    Attributes:
        sha256: of the file, in hexadecimal.
        rows: (number of the line, cells by column), cells without blanks around them.
    """

    path: Path
    sha256: str
    rows: tuple[tuple[int, dict[str, str]], ...]
    unreadable: tuple[UnreadableLine, ...]


def read_table(path: Path, required: Sequence[str], numbers: Collection[str] = ()) -> Table:
    """Everything readable of a CSV file in UTF-8.

    Args:
        required: columns that the file must have.
        numbers: columns of numbers. Where the last column is one and the last line does not
            end, digits may be missing, and the line is not used.

    Raises:
        TableError: no such file, an empty one, or no such columns.
    """
    data = _bytes(path, required)
    lines = list(io.StringIO(data.decode("utf-8-sig", errors="replace"), newline=""))
    columns = _columns(path, lines, required)
    rows: list[tuple[int, dict[str, str]]] = []
    unreadable: list[UnreadableLine] = []
    for line, cells in _records(lines, len(columns)):
        try:
            fields = _fields(columns, cells)
            if line == len(lines) and columns[-1] in numbers and lines[-1][-1] not in "\r\n":
                last = f"it may lack digits of {columns[-1]}; end it with a newline"
                raise ValueError(f"half-written: {last}")
            rows.append((line, fields))
        except ValueError as fault:
            unreadable.append(UnreadableLine(line, str(fault)))
    return Table(path, sha256(data).hexdigest(), tuple(rows), tuple(unreadable))


def _bytes(path: Path, required: Sequence[str]) -> bytes:
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "no such file"
        raise TableError(f"{path}: {what}; give a CSV of measurements")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise TableError(f"{path}: larger than {MAX_FILE_BYTES // 2**20} MiB")
    data = path.read_bytes()
    if not data.strip():
        raise TableError(
            f"{path}: an empty file; a CSV of measurements begins with the columns "
            f"{', '.join(required)}"
        )
    return data


def _columns(path: Path, lines: Sequence[str], required: Sequence[str]) -> list[str]:
    """The names in the first line."""
    try:
        columns = [name.strip() for name in next(csv.reader(lines[:1]))]
    except (csv.Error, StopIteration):
        columns = []
    if not columns or not all(name.isprintable() and NOT_UTF8 not in name for name in columns):
        raise TableError(f"{path}:1: not a CSV file in UTF-8: the first line names no columns")
    missing = [name for name in required if name not in columns]
    if missing:
        raise TableError(f"{path}:1: no column {', '.join(missing)}")
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise TableError(f"{path}:1: {', '.join(twice)}: a column stands twice; keep one")
    return columns


def _records(lines: Sequence[str], width: int) -> Iterator[tuple[int, list[str] | None]]:
    """(number of its first line, cells) of every record below the columns; None: no cells.

    A quote that is not closed would swallow the lines after it. A record of several lines that
    has not `width` cells is therefore given up after its first, and the others are read anew.
    """
    start = 1
    while start < len(lines):
        reader = csv.reader(islice(lines, start, None))
        first = start
        try:
            for cells in reader:
                after = start + reader.line_num
                if after - first > 1 and len(cells) != width:
                    raise csv.Error
                if cells:
                    yield first + 1, cells
                first = after
        except csv.Error:
            yield first + 1, None
            start = first + 1
        else:
            return


def _fields(columns: Sequence[str], cells: Sequence[str] | None) -> dict[str, str]:
    """The cells of a line by column.

    Raises:
        ValueError: too few, too many, or not text.
    """
    if cells is None:
        raise ValueError("half-written: a quote is not closed")
    if len(cells) < len(columns):
        raise ValueError(f"half-written: {len(cells)} of {len(columns)} cells")
    if any(cell.strip() for cell in cells[len(columns) :]):
        raise ValueError(f"{len(cells)} cells below {len(columns)} columns")
    if any(NOT_UTF8 in cell for cell in cells):
        raise ValueError("not UTF-8")
    return {name: cell.strip() for name, cell in zip(columns, cells, strict=False)}
