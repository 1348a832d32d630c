"""Facts of a GPU that a run measured: rows of bandwidths, launch costs, rates and clocks.

The columns are those of published operator measurements: `gpu, operator, metric, value`, and
`m, n, k`: sizes of a GEMM; of a bandwidth `m` is the working set in bytes, if known.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fasim.verbs.measured.csv_table import read_table
from fasim.verbs.measured.measurements import MeasurementError

COLUMNS = ("id", "gpu", "operator", "dtype", "m", "n", "k", "metric", "value")

# How the name of an operator begins, by what it measures.
DRAM_READ = ("dram read", "stream read")
DRAM_COPY = ("dram copy", "stream scale", "device-to-device copy")
L2_READ = ("l2 read",)
L2_WRITE = ("l2 write",)
LAUNCH_STREAM = ("launch stream",)
LAUNCH_GRAPH = ("launch graph",)
SM_CLOCK = ("sm clock",)
GEMM = ("gemm",)

# Base units of a metric's: bytes/s, FLOP/s, seconds, hertz.
METRICS = {"gbps": 1e9, "tflops": 1e12, "time_ms": 1e-3, "time_us": 1e-6, "mhz": 1e6}


@dataclass(frozen=True)
class DeviceRow:
    """One measured figure in base units; `m, n, k` are None where the row says none."""

    id: str
    operator: str
    dtype: str
    m: float | None
    n: float | None
    k: float | None
    metric: str
    value: float

    @property
    def flops_per_s(self) -> float | None:
        """Of a GEMM, given as a rate or as the time of 2·m·n·k; None for anything else."""
        if self.metric == "tflops":
            return self.value
        if self.metric.startswith("time") and self.m and self.n and self.k:
            return 2 * self.m * self.n * self.k / self.value
        return None


def read_device_rows(path: Path, gpus: Iterable[str]) -> tuple[DeviceRow, ...]:
    """The rows of a file that belong to a GPU.

    Args:
        gpus: what the GPU may be called in the column `gpu`. A file that knows one GPU only is
            taken to mean this one.

    Raises:
        TableError: nothing of the file can be read.
        MeasurementError: it has rows of several GPUs, none of them this one.
    """
    table = read_table(path, COLUMNS, {"value", "m", "n", "k"})
    named = {fields["gpu"] for _, fields in table.rows}
    wanted = named & set(gpus) if len(named) > 1 else named
    if named and not wanted:
        raise MeasurementError(
            f"{path}: rows of {', '.join(sorted(named))}, none of {', '.join(sorted(set(gpus)))}"
        )
    rows = (_row(fields) for _, fields in table.rows if fields["gpu"] in wanted)
    return tuple(row for row in rows if row is not None)


def of(rows: Iterable[DeviceRow], names: tuple[str, ...], metric: str) -> list[DeviceRow]:
    """The rows of an operator, by how its name begins, in a metric that begins like that."""
    return [
        row
        for row in rows
        if row.operator.lower().startswith(names) and row.metric.startswith(metric)
    ]


def from_dram(rows: Iterable[DeviceRow], most: float) -> DeviceRow | None:
    """The bandwidth of the largest working set; faster rows than the pins came from a cache."""
    possible = [row for row in rows if row.value <= most]
    return max(possible, key=lambda row: (row.m or 0, row.value), default=None)


def from_l2(rows: Iterable[DeviceRow], capacity_bytes: int) -> DeviceRow | None:
    """The best bandwidth over working sets that half the L2 holds."""
    possible = [row for row in rows if row.m is None or row.m <= capacity_bytes / 2]
    return max(possible, key=lambda row: row.value, default=None)


def typical(rows: list[DeviceRow]) -> DeviceRow | None:
    """The row in the middle; the lower of two."""
    if not rows:
        return None
    middle = statistics.median_low(row.value for row in rows)
    return next(row for row in rows if row.value == middle)


def best_gemm(rows: Iterable[DeviceRow]) -> DeviceRow | None:
    """The fastest GEMM of two-byte inputs."""
    gemms = [row for row in rows if row.operator.lower().startswith(GEMM)]
    able = [row for row in gemms if row.flops_per_s and row.dtype in ("fp16", "bf16")]
    return max(able, key=lambda row: row.flops_per_s or 0.0, default=None)


def _row(fields: dict[str, str]) -> DeviceRow | None:
    """A row in base units; None for a metric or a number that says nothing of the device."""
    factor = METRICS.get(fields["metric"])
    value = _number(fields["value"])
    if factor is None or value is None:
        return None
    m, n, k = (_number(fields[name]) for name in ("m", "n", "k"))
    return DeviceRow(
        fields["id"],
        fields["operator"],
        fields["dtype"],
        m,
        n,
        k,
        fields["metric"],
        value * factor,
    )


def _number(text: str) -> float | None:
    """A positive number, or nothing."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None
