"""`fasim validate`: predicted against measured times and bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fasim.verbs.measurement_file import read
from fasim.verbs.measurements import Measurement
from fasim.verbs.validation import UnsupportedRow, ValidatedBytes, ValidatedRow, Validation
from fasim.verbs.validation_workers import predict_rows

__all__ = ["UnsupportedRow", "ValidatedBytes", "ValidatedRow", "Validation", "validate"]


def validate(
    measured: Path,
    *,
    keep: Callable[[Measurement], bool] | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Validation:
    """Predicts every measurement of a file, or those that `keep` keeps.

    `launch`, `l2` and `extras` of a row are inputs of its prediction, never guessed.

    Args:
        processes: predict in so many processes, with the same result. The program that calls
            must be importable then (`if __name__ == "__main__":`), as `multiprocessing` asks.
        progress: called with rows done and rows in all.

    Raises:
        MeasurementError: the file cannot be read, or holds no measurement.
    """
    file = read(measured)
    measurements = [m for m in file.rows if keep is None or keep(m)]
    rows: list[ValidatedRow] = []
    counted: list[ValidatedBytes] = []
    unsupported: list[UnsupportedRow] = []
    predicted = predict_rows(measurements, processes=processes, progress=progress)
    for measurement, prediction in zip(measurements, predicted, strict=True):
        if prediction.reason is not None:
            unsupported.append(UnsupportedRow(measurement.id, prediction.reason))
            continue
        if measurement.time_ms is not None:
            rows.append(
                ValidatedRow(
                    measurement, measurement.time_ms, prediction.time_ms, prediction.fills_gpu
                )
            )
        if measurement.hbm_gb is not None:
            gigabytes = prediction.dram_bytes / 1e9
            counted.append(ValidatedBytes(measurement, measurement.hbm_gb, gigabytes))
    return Validation(
        path=file.path,
        sha256=file.sha256,
        rows=tuple(rows),
        bytes=tuple(counted),
        unsupported=tuple(unsupported),
        unreadable=file.unreadable,
        operator_rows=file.operator_rows,
        wrong_outputs=tuple(m.id for m in measurements if m.output_is_wrong),
    )
