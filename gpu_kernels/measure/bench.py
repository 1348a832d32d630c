"""What every job measures with, and what a job is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpu_kernels.measure.device import Device
    from gpu_kernels.measure.row_file import Row
    from gpu_kernels.measure.rows import RowMaker
    from gpu_kernels.measure.telemetry import Telemetry
    from gpu_kernels.measure.timing import Timer


@dataclass(frozen=True)
class Bench:
    """A GPU ready to be measured.

    out: the file of the run; what does not fit into rows lies beside it.
    """

    device: Device
    timer: Timer
    telemetry: Telemetry
    rows: RowMaker
    out: Path

    def beside(self, what: str) -> Path:
        """`run.csv` and `trace` make `run.trace.csv`."""
        return self.out.with_suffix(f".{what}.csv")


class LeftOut(Exception):
    """A measurement that this GPU or software does not give, and why, in one line."""


@dataclass(frozen=True)
class Job:
    """Some rows that are measured together.

    Attributes:
        ids: of its rows. A job whose rows are all there is skipped.
        run: yields rows with these ids, those in `wanted` alone where that saves time; raises
            LeftOut, or whatever torch and triton raise.
        failed: the row that says that an output could not be computed; None where a failure
            is no finding.
    """

    ids: tuple[str, ...]
    run: Callable[[Bench, frozenset[str]], Iterator[Row]]
    failed: Callable[[Bench], Row] | None = None
