"""A CSV file of attention measurements."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fasim.verbs.measured.csv_table import TableError, UnreadableLine, read_table
from fasim.verbs.measured.measurements import DIRECTIONS, Measurement, MeasurementError

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
SIZES = ("batch", "heads", "kv_heads", "seqlen_q", "seqlen_k", "head_dim", "dropout")


@dataclass(frozen=True)
class MeasurementFile:
    """What a file holds.

    Attributes:
        sha256: of the file, in hexadecimal.
        unreadable: lines that are no measurements, each with its reason.
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
    try:
        table = read_table(path, COLUMNS, {*MEASURED, *SIZES})
    except TableError as fault:
        raise MeasurementError(str(fault)) from fault
    rows: list[Measurement] = []
    unreadable = list(table.unreadable)
    operator_rows = 0
    for line, fields in table.rows:
        if fields.get("operator") and not fields["implementation"]:
            operator_rows += 1
            continue
        try:
            rows.append(_measurement(fields))
        except ValueError as fault:
            unreadable.append(UnreadableLine(line, str(fault)))
    unreadable.sort(key=lambda fault: fault.line)
    if not rows:
        raise _nothing(path, unreadable)
    return MeasurementFile(path, table.sha256, tuple(rows), tuple(unreadable), operator_rows)


def _nothing(path: Path, unreadable: list[UnreadableLine]) -> MeasurementError:
    if not unreadable:
        return MeasurementError(f"{path}: no measurement of attention below the columns")
    first, *others = unreadable
    more = f"; nor can {len(others)} more lines be used" if others else ""
    return MeasurementError(f"{path}:{first.line}: {first.reason}{more}")


def _measurement(fields: dict[str, str]) -> Measurement:
    """A row.

    Raises:
        ValueError: a direction or an amount that is none.
    """
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
    """The positive number of a cell; None for an empty one."""
    if not text:
        return None
    try:
        amount = float(text)
    except ValueError:
        amount = float("nan")
    if not 0 < amount < float("inf"):
        raise ValueError(f"{name} is {text!r}; it must be a positive number")
    return amount
