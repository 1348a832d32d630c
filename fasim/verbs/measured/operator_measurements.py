"""Measured operators: the CSV format, and what of a row is an operator fasim can predict."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from fasim.operators import Operator, gemm, over_elements, over_rows
from fasim.problem import ProblemError, Scenario
from fasim.verbs.measured.csv_table import TableError, UnreadableLine, read_table
from fasim.verbs.measured.measurements import Unsupported

COLUMNS = ("id", "gpu", "operator", "dtype", "m", "n", "k", "metric", "value", "source", "notes")
# Bandwidths are stated without a size: arrays far beyond any L2, for which the size is no matter.
# An array of doubles is one of twice as many floats.
ARRAY_BYTES = 2**30
ARRAY_COLUMNS = 4096
# Timed by the host's clock round a call and a synchronisation, by kind of operator: what the
# smallest of a series takes ("~15 us floor", "~48 us floor"; of products "~10-30 us" is said).
HOST_TIMED = "PrincetonUniversity/LLMCompass"
HOST_FLOORS_S = {"gemm": 20e-6, "softmax": 15e-6, "elementwise": 48e-6}


@dataclass(frozen=True)
class OperatorFile:
    """What a file holds: rows, and the lines that are none."""

    rows: tuple[OperatorMeasurement, ...]
    unreadable: tuple[UnreadableLine, ...]


@dataclass(frozen=True)
class OperatorMeasurement:
    """One row of a file: what somebody measured.

    Attributes:
        value: in the unit of `metric`: `time_ms`, `tflops` or `gbps`.
        fields: every column of the row, as written.
    """

    id: str
    gpu: str
    metric: str
    value: float
    fields: dict[str, str]

    @property
    def kind(self) -> str:
        """What rows are grouped by: the operator's kind, or `bandwidth`."""
        return "bandwidth" if self.metric == "gbps" else self.operator.kind

    @property
    def operator(self) -> Operator:
        """What ran.

        Raises:
            Unsupported: no operator, or one that is not known; the message says which.
        """
        name = self.fields["operator"]
        for pattern, make in _OPERATORS:
            if re.search(pattern, name):
                try:
                    return make(self)
                except (ProblemError, ValueError) as fault:
                    raise Unsupported(str(fault)) from fault
        raise Unsupported(f"{name!r} is no operator of fasim's")

    @property
    def repeats(self) -> int:
        """Calls inside the measured time: three where Q, K and V are projected one by one."""
        return 3 if "three" in self.fields["operator"] else 1

    @property
    def scenario(self) -> Scenario:
        """Launch and L2 state as the row's notes state them; warm, on a stream, if they do not."""
        if self.metric == "gbps" or self.host_floor_s:
            return Scenario("kernel", "cold" if self.metric == "gbps" else "warm")
        if "graph replays over rotating weights" in self.fields["notes"]:
            return Scenario("graph", "cold")
        return Scenario()

    @property
    def host_floor_s(self) -> float:
        """Of a time by the host's clock: what is not the kernels'; launches are part of it."""
        if not self.fields["source"].startswith(HOST_TIMED):
            return 0.0
        return HOST_FLOORS_S[self.operator.kind] * self.repeats

    def time_s(self, moved_bytes: int) -> float:
        """The measured time; of a bandwidth, the time these bytes take at it.

        Raises:
            Unsupported: a metric that is no time.
        """
        if self.metric == "time_ms":
            return self.value * 1e-3
        if self.metric == "tflops":
            return self.operator.nominal_flops * self.repeats / (self.value * 1e12)
        if self.metric == "gbps":
            return moved_bytes / (self.value * 1e9)
        raise Unsupported(f"{self.metric} is no time")

    def size(self, name: str) -> int:
        """m, n or k."""
        return int(self.fields[name])

    @property
    def batch(self) -> int:
        """Matrices of a batched call, which the notes state: `torch.bmm 192 x`."""
        found = re.search(r"torch\.bmm (\d+) x", self.fields["notes"])
        return int(found[1]) if found else 1

    @property
    def array_elements(self) -> int:
        """Elements of an array of `fp32`: as the operator's name states, or a large one."""
        found = re.search(r"(\d+)x(\d+)", self.fields["operator"])
        return int(found[1]) * int(found[2]) if found else ARRAY_BYTES // 4


Make = Callable[[OperatorMeasurement], Operator]


def _refuse(reason: str) -> Make:
    def make(_: OperatorMeasurement) -> Operator:
        raise Unsupported(reason)

    return make


def _product(row: OperatorMeasurement) -> Operator:
    return gemm(row.size("m"), row.size("n"), row.size("k"), dtype=row.fields["dtype"])


def _scores(row: OperatorMeasurement) -> Operator:
    m, n, k = (row.size(name) for name in "mnk")
    return gemm(m, n, k, row.batch, row.fields["dtype"])


def _values(row: OperatorMeasurement) -> Operator:
    m, n, k = (row.size(name) for name in "mnk")
    return gemm(m, k, n, row.batch, row.fields["dtype"])


def _softmax(row: OperatorMeasurement) -> Operator:
    rows = row.size("m") * row.batch
    return over_rows("softmax", rows, row.size("n"), dtype=row.fields["dtype"])


def _gelu(row: OperatorMeasurement) -> Operator:
    return over_elements("elementwise", row.size("m"), "gelu", row.fields["dtype"])


def _stream(operation: str) -> Make:
    def make(row: OperatorMeasurement) -> Operator:
        return over_elements("elementwise", row.array_elements, operation, "fp32")

    return make


def _copy(row: OperatorMeasurement) -> Operator:
    return over_elements("copy", row.array_elements, dtype="fp32")


def _read(row: OperatorMeasurement) -> Operator:
    if "grid-limited" in row.fields["notes"]:
        raise Unsupported("too few blocks to fill the GPU, as its notes say; how many is not said")
    return over_rows("reduce", row.array_elements // ARRAY_COLUMNS, ARRAY_COLUMNS, dtype="fp32")


# The first pattern found in the operator's name says what it is.
_OPERATORS: tuple[tuple[str, Make], ...] = (
    ("custom", _refuse("a kernel of its author's, not a library's")),
    ("^L2 ", _refuse("the rate of L2 alone, which a profile states: no operator")),
    ("^GEMM", _product),
    ("Q_mul_K", _scores),
    ("A_mul_V", _values),
    ("(?i)softmax", _softmax),
    ("GELU", _gelu),
    ("stream init", _stream("fill")),
    ("stream scale", _stream("scale")),
    ("stream triad", _stream("triad")),
    ("read$|read bandwidth|stream read|float16 read", _read),
    ("copy", _copy),
)


def published() -> Path:
    """The published operator times that ship with fasim."""
    files = resources.files("gpu_kernels") / "measurements" / "published" / "operators.csv"
    return Path(str(files))


def is_of_operators(path: Path) -> bool:
    """Whether a file's columns are those of measured operators, and not of attention too."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader([file.readline(2**16)]), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return False  # reading it says why
    return {"operator", "metric", "value"} <= set(header) and "implementation" not in header


def read(path: Path) -> OperatorFile:
    """The rows of a CSV file that measure operators; those of attention are left out.

    Raises:
        TableError: no such file, not a CSV of measured operators, or no row in it.
    """
    table = read_table(path, COLUMNS, numbers=("value",))
    rows: list[OperatorMeasurement] = []
    unreadable = list(table.unreadable)
    for line, fields in table.rows:
        if not fields["operator"]:
            continue
        try:
            rows.append(_measurement(fields))
        except ValueError as fault:
            unreadable.append(UnreadableLine(line, str(fault)))
    if not rows:
        reasons = "; ".join(f"line {each.line}: {each.reason}" for each in unreadable[:1])
        raise TableError(f"{path}: no measured operator{f' ({reasons})' if reasons else ''}")
    return OperatorFile(tuple(rows), tuple(sorted(unreadable, key=lambda each: each.line)))


def _measurement(fields: dict[str, str]) -> OperatorMeasurement:
    try:
        value = float(fields["value"])
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise ValueError(f"value is {fields['value']!r}; it must be a positive number")
    return OperatorMeasurement(fields["id"], fields["gpu"], fields["metric"], value, fields)
