"""`fasim validate`: predicted against measured times and bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fasim.simulator.mechanisms import without as switched_off
from fasim.verbs.measured.measurement_file import read
from fasim.verbs.measured.measurements import Measurement
from fasim.verbs.validation import UnsupportedRow, ValidatedBytes, ValidatedRow, Validation
from fasim.verbs.validation_workers import predict_rows

__all__ = ["UnsupportedRow", "ValidatedBytes", "ValidatedRow", "Validation", "validate"]


def validate(
    measured: Path,
    *,
    keep: Callable[[Measurement], bool] | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
    without: Sequence[str] = (),
) -> Validation:
    """Predicts every measurement of a file, or those that `keep` keeps.

    `launch`, `l2` and `extras` of a row are inputs of its prediction, never guessed. A row whose
    `software` is a version with kernels of its own is predicted by these.

    Args:
        processes: predict in so many processes, with the same result. The program that calls
            must be importable then (`if __name__ == "__main__":`), as `multiprocessing` asks.
        progress: called with rows done and rows in all.
        without: mechanisms of the model that are switched off, to see what each is worth.

    Raises:
        UnknownMechanism: `without` names what is no mechanism.
        MeasurementError: the file cannot be read, or holds no measurement.
    """
    with switched_off(without):  # a name that is no mechanism fails before the file is read
        file = read(measured)
    measurements = [m for m in file.rows if keep is None or keep(m)]
    rows: list[ValidatedRow] = []
    counted: list[ValidatedBytes] = []
    unsupported: list[UnsupportedRow] = []
    predicted = predict_rows(measurements, processes=processes, progress=progress, without=without)
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
        without=tuple(without),
        wrong_outputs=tuple(m.id for m in measurements if m.output_is_wrong),
    )
