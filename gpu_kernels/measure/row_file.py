"""The CSV file of a run: a row is on the disk before the next one is measured."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

Row = Mapping[str, str]

PROBLEM_COLUMNS = (
    "batch",
    "heads",
    "kv_heads",
    "seqlen_q",
    "seqlen_k",
    "head_dim",
    "causal",
    "dropout",
)
# Those of published attention and operator measurements, then where a row comes from. The last
# column is text: a number that a stop cut short could not be told from a whole one.
COLUMNS = (
    "id",
    "gpu",
    "implementation",
    "schedule",
    "direction",
    "dtype",
    *PROBLEM_COLUMNS,
    "time_ms",
    "hbm_gb",
    "launch",
    "l2",
    "extras",
    "operator",
    "m",
    "n",
    "k",
    "metric",
    "value",
    "output_ok",
    "timer",
    "spread_ms",
    "repeats",
    "clock_mhz",
    "power_w",
    "counters",
    "device",
    "driver",
    "ecc",
    "mig",
    "date",
    "confidence",
    "source",
    "software",
    "notes",
)


class RowFileError(Exception):
    """A file that rows cannot be added to; the message is one line."""


class RowFile:
    """Rows of measurements, added one by one; those already there are kept.

    Raises:
        RowFileError: the file cannot be written, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, str]] = []
        try:
            if path.exists() and path.stat().st_size:
                self.rows = _whole_rows(path)
            self._file = path.open("a", encoding="utf-8", newline="")
            if self._file.tell() == 0:
                self._append(COLUMNS)
        except (OSError, UnicodeDecodeError, csv.Error) as fault:
            reason = getattr(fault, "strerror", None) or "no CSV file in UTF-8"
            raise RowFileError(f"{path}: cannot be written: {reason}") from None

    def __contains__(self, row_id: str) -> bool:
        return any(row["id"] == row_id for row in self.rows)

    def __enter__(self) -> RowFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, row: Row) -> None:
        """Appends a row; it is on the disk when this returns.

        Raises:
            KeyError: a field that is no column.
        """
        unknown = set(row) - set(COLUMNS)
        if unknown:
            raise KeyError(f"no column {', '.join(sorted(unknown))}")
        cells = {name: row.get(name, "") for name in COLUMNS}
        self._append(cells.values())
        self.rows.append(cells)

    def _append(self, cells: Iterable[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        self._file.write(line.getvalue())
        self._file.flush()
        os.fsync(self._file.fileno())


def _whole_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a file; a last line that a stop cut short is taken out of it.

    Raises:
        RowFileError: its first line names other columns.
    """
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    lines = list(csv.reader(io.StringIO(data[:end].decode("utf-8"), newline="")))
    if end == 0 or tuple(lines[0]) != COLUMNS:
        raise RowFileError(f"{path}: holds something else than a run's rows; give another file")
    if end < len(data):
        with path.open("r+b") as file:
            file.truncate(end)
    return list(_rows(lines[1:]))


def _rows(lines: list[list[str]]) -> Iterator[dict[str, str]]:
    for cells in lines:
        if len(cells) == len(COLUMNS):
            yield dict(zip(COLUMNS, cells, strict=True))
