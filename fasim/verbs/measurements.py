"""Measured times: the CSV format, and what of a row is a problem fasim can predict."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from fasim.problem import Attention, ProblemError, Scenario
from fasim.schedules.plan import Options

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
DIRECTIONS = {"fwd": "forward", "bwd": "backward", "fwd+bwd": "both"}
MAX_FILE_BYTES = 64 * 2**20
PAGE_SIZE = 16  # keys in a page where a row does not say: vLLM's default


class MeasurementError(ValueError):
    """A file of measurements that cannot be read; the message says where and why."""


class Unsupported(Exception):
    """A measurement that fasim has no prediction for, and why."""


@dataclass(frozen=True)
class Measurement:
    """One row of a file: what somebody measured.

    Attributes:
        time_ms: None where only bytes were measured.
        fields: every column of the row, as written.
    """

    id: str
    gpu: str
    implementation: str
    direction: str
    time_ms: float | None
    fields: dict[str, str]

    @property
    def problem(self) -> Attention:
        """What ran.

        Raises:
            Unsupported: a problem that cannot be.
        """
        try:
            return Attention(
                batch=int(self.fields["batch"]),
                heads=int(self.fields["heads"]),
                kv_heads=int(self.fields["kv_heads"] or self.fields["heads"]),
                seqlen_q=int(self.fields["seqlen_q"]),
                seqlen_k=int(self.fields["seqlen_k"]),
                head_dim=int(self.fields["head_dim"]),
                dtype=self.fields["dtype"],  # type: ignore[arg-type]
                causal=self.fields["causal"].lower() in ("true", "1"),
                direction=DIRECTIONS[self.direction],  # type: ignore[arg-type]
                dropout=float(self.fields["dropout"] or 0),
            )
        except (ProblemError, ValueError, KeyError) as fault:
            raise Unsupported(str(fault)) from fault

    @property
    def scenario(self) -> Scenario:
        """Launch and L2 state as the row states them; an unknown L2 state is taken as warm.

        Raises:
            Unsupported: an unknown launch.
        """
        l2 = "cold" if self.fields["l2"] == "cold" else "warm"
        try:
            return Scenario(launch=self.fields["launch"] or "stream", l2=l2)  # type: ignore[arg-type]
        except ProblemError as fault:
            raise Unsupported(str(fault)) from fault

    @property
    def options(self) -> Options:
        """What else was in the call: a paged cache, a kernel that writes the new keys into it.

        Raises:
            Unsupported: extras inside the time that no schedule has.
        """
        extras = set(filter(None, self.fields.get("extras", "").split(";")))
        unknown = extras - {"paged", "kv-write"}
        if unknown:
            raise Unsupported(f"the time includes {', '.join(sorted(unknown))}, not modelled yet")
        return Options(
            page_size=PAGE_SIZE if "paged" in extras else None,
            writes_kv=True if "kv-write" in extras else None,
        )


def published() -> Path:
    """The published attention times that ship with fasim."""
    files = resources.files("gpu_kernels") / "measurements" / "published" / "attention.csv"
    return Path(str(files))


def read(path: Path) -> Iterator[Measurement]:
    """The rows of a CSV file.

    Raises:
        MeasurementError: no such file, not a CSV of measurements, or a row without a time.
    """
    if not path.is_file():
        raise MeasurementError(f"{path}: no such file; give a CSV of measurements")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise MeasurementError(f"{path}: larger than {MAX_FILE_BYTES // 2**20} MiB")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise MeasurementError(f"{path}:1: no column {', '.join(missing)}")
            for row in reader:
                yield _measurement(path, reader.line_num, row)
    except (UnicodeDecodeError, csv.Error) as fault:
        raise MeasurementError(f"{path}: not a CSV file in UTF-8: {fault}") from fault


def _measurement(path: Path, line: int, row: dict[str, str | None]) -> Measurement:
    fields = {name: (value or "").strip() for name, value in row.items() if name is not None}
    time_ms = _number(fields["time_ms"]) if fields["time_ms"] else None
    if time_ms is not None and not 0 < time_ms < float("inf"):
        raise MeasurementError(
            f"{path}:{line}: time_ms is {fields['time_ms']!r}; it must be a positive number"
        )
    if fields["direction"] not in DIRECTIONS:
        raise MeasurementError(
            f"{path}:{line}: direction is {fields['direction']!r}; "
            f"choose from {', '.join(DIRECTIONS)}"
        )
    return Measurement(
        fields["id"],
        fields["gpu"],
        fields["implementation"],
        fields["direction"],
        time_ms,
        fields,
    )


def _number(text: str) -> float:
    """The number a cell holds; NaN, which no range takes, if it holds none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")
