"""A CSV file of measurements: its rows, and the lines that hold none.

A line that cannot be read costs itself and no other: half-written ones end files that a
measuring run was writing when it was stopped. Each is named with its number and the reason.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path

from fasim.verbs.measurements import DIRECTIONS, Measurement, MeasurementError

COLUMNS = (
    "id",
    "gpu",
    "implementation",
    "schedule",
    "direction",
    "dtype",
    "batch",
    "heads",
    "kv_heads",
    "seqlen_q",
    "seqlen_k",
    "head_dim",
    "causal",
    "dropout",
    "time_ms",
    "launch",
    "l2",
)
MEASURED = ("time_ms", "hbm_gb")  # positive numbers, either may be left out
MAX_FILE_BYTES = 64 * 2**20
NOT_UTF8 = "\ufffd"  # what decoding leaves of bytes that are not UTF-8


@dataclass(frozen=True)
class UnreadableLine:
    """A line of a file that is no measurement, and why."""

    line: int
    reason: str


@dataclass(frozen=True)
class MeasurementFile:
    """What a CSV file holds.

    Attributes:
        sha256: of the file, in hexadecimal.
        operator_rows: rows that measure an operator or the device, not attention; left out.
    """

    path: Path
    sha256: str
    rows: tuple[Measurement, ...]
    unreadable: tuple[UnreadableLine, ...]
    operator_rows: int


def read(path: Path) -> MeasurementFile:
    """Everything readable of a CSV file.

    Raises:
        MeasurementError: no such file, no columns of measurements, or no line that can be read.
    """
    data = _bytes(path)
    lines = list(io.StringIO(data.decode("utf-8-sig", errors="replace"), newline=""))
    columns = _columns(path, lines)
    rows: list[Measurement] = []
    unreadable: list[UnreadableLine] = []
    operator_rows = 0
    for line, cells in _records(lines, len(columns)):
        try:
            fields = _fields(columns, cells)
            if line == len(lines):
                _check_last_line(columns, lines[-1])
            if fields.get("operator") and not fields["implementation"]:
                operator_rows += 1
            else:
                rows.append(_measurement(fields))
        except ValueError as fault:
            unreadable.append(UnreadableLine(line, str(fault)))
    if not rows:
        if not unreadable:
            raise MeasurementError(f"{path}: no measurement of attention below the columns")
        more = f" (as are {len(unreadable) - 1} more)" if len(unreadable) > 1 else ""
        first = unreadable[0]
        raise MeasurementError(f"{path}:{first.line}: {first.reason}; the line is unusable{more}")
    return MeasurementFile(
        path, sha256(data).hexdigest(), tuple(rows), tuple(unreadable), operator_rows
    )


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "no such file"
        raise MeasurementError(f"{path}: {what}; give a CSV of measurements")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise MeasurementError(f"{path}: larger than {MAX_FILE_BYTES // 2**20} MiB")
    data = path.read_bytes()
    if not data.strip():
        raise MeasurementError(
            f"{path}: an empty file; a CSV of measurements begins with the columns "
            f"{', '.join(COLUMNS)}"
        )
    return data


def _columns(path: Path, lines: Sequence[str]) -> list[str]:
    """The names in the first line.

    Raises:
        MeasurementError: it is no line of columns, or lacks some.
    """
    try:
        columns = [name.strip() for name in next(csv.reader(lines[:1]))]
    except (csv.Error, StopIteration):
        columns = []
    if not columns or any(NOT_UTF8 in name for name in columns):
        raise MeasurementError(f"{path}:1: not a CSV file in UTF-8; its first line is no columns")
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise MeasurementError(f"{path}:1: no column {', '.join(missing)}")
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise MeasurementError(f"{path}:1: {', '.join(twice)}: a column stands twice; keep one")
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


def _check_last_line(columns: Sequence[str], text: str) -> None:
    """Refuses a last line that may lack digits: cut inside a number it would look complete."""
    words = {"id", "gpu", "implementation", "schedule", "direction", "dtype", "causal"}
    read_as_number = {*COLUMNS, *MEASURED} - words - {"launch", "l2"}
    if columns[-1] in read_as_number and not text.endswith(("\n", "\r")):
        raise ValueError(
            f"half-written: it may lack digits of {columns[-1]}; end it with a newline"
        )


def _measurement(fields: dict[str, str]) -> Measurement:
    time_ms, hbm_gb = (_amount(name, fields.get(name, "")) for name in MEASURED)
    if fields["direction"] not in DIRECTIONS:
        raise ValueError(
            f"direction is {fields['direction']!r}; choose from {', '.join(DIRECTIONS)}"
        )
    return Measurement(
        fields["id"],
        fields["gpu"],
        fields["implementation"],
        fields["direction"],
        time_ms,
        hbm_gb,
        fields,
    )


def _amount(name: str, text: str) -> float | None:
    """The positive number of a cell; None for an empty one.

    Raises:
        ValueError: it is no such number.
    """
    if not text:
        return None
    try:
        amount = float(text)
    except ValueError:
        amount = float("nan")
    if not 0 < amount < float("inf"):
        raise ValueError(f"{name} is {text!r}; it must be a positive number")
    return amount
