"""Predicting many measurements: in one process, or a share of them in each of several.

Rows of one GPU, implementation and direction go to a process together: they share recorded
programs and steady cycles of the SM engine. A prediction does not depend on what was predicted
before, so the results are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

from fasim.hardware import ProfileError, load
from fasim.readings.traffic import total
from fasim.schedules.plan import Refused
from fasim.simulator.mechanisms import without as switched_off
from fasim.verbs.measured.measurements import Measurement, Unsupported
from fasim.verbs.measured.versions import modelled_by
from fasim.verbs.predict import predict

# Starting a process and reading its caches full costs about as much as this many rows.
ROWS_WORTH_A_PROCESS = 20


@dataclass(frozen=True)
class PredictedRow:
    """What of a prediction a measurement can contradict; or the reason why there is none.

    Attributes:
        fills_gpu: whether the kernel that takes longest has a block for every slot of the GPU.
    """

    time_ms: float = 0.0
    dram_bytes: int = 0
    fills_gpu: bool = False
    reason: str | None = None


def predicted_row(measurement: Measurement, without: Sequence[str] = ()) -> PredictedRow:
    """The prediction of a measurement; launch, L2 state and extras are inputs, never guessed.

    Args:
        without: mechanisms of the model that are switched off.
    """
    with switched_off(without):
        return _predicted_row(measurement)


def _predicted_row(measurement: Measurement) -> PredictedRow:
    try:
        if measurement.time_ms is None and measurement.hbm_gb is None:
            raise Unsupported("neither a time nor bytes")
        prediction = predict(
            measurement.problem,
            load(measurement.gpu),
            measurement.scenario,
            implementation=modelled_by(measurement),
            options=measurement.options,
        )
        if prediction.time_s is None:
            raise Unsupported("does not fit the GPU's memory as predicted")
    except (Unsupported, Refused) as reason:
        return PredictedRow(reason=str(reason))
    except ProfileError as error:
        # A GPU that there is not was asked for by the row, not by an option: no place is named.
        faults = (str(fault) if fault.position else fault.message for fault in error.faults)
        return PredictedRow(reason="\n".join(faults))
    longest = max(prediction.kernels, key=lambda kernel: kernel.time_s or 0.0)
    return PredictedRow(
        prediction.time_s * 1e3,
        total(prediction.traffic["dram"]).total_bytes,
        longest.waves >= 1,
    )


def predict_rows(
    measurements: Sequence[Measurement],
    *,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
    without: Sequence[str] = (),
) -> list[PredictedRow]:
    """The predictions of measurements, in their order.

    Args:
        without: mechanisms of the model that are switched off.
        processes: at most so many; few rows are predicted in this one.
        progress: called with rows done and rows in all.
    """
    found: dict[int, PredictedRow] = {}

    def keep(indices: Sequence[int], rows: Sequence[PredictedRow]) -> None:
        found.update(zip(indices, rows, strict=True))
        if progress is not None:
            progress(len(found), len(measurements))

    processes = min(processes, len(measurements) // ROWS_WORTH_A_PROCESS)
    if processes > 1:
        _in_processes(measurements, processes, keep, without)
    for index, measurement in enumerate(measurements):
        if index not in found:
            keep([index], [predicted_row(measurement, without)])
    return [found[index] for index in range(len(measurements))]


def _in_processes(
    measurements: Sequence[Measurement],
    processes: int,
    keep: Callable[[Sequence[int], Sequence[PredictedRow]], None],
    without: Sequence[str],
) -> None:
    """Hands shares of the rows to processes; what a lost process leaves is for the caller.

    The processes are started anew, not forked: a fork of a process with threads may hang.
    """
    try:
        pool = ProcessPoolExecutor(processes, get_context("spawn"))
    except OSError:  # a system without semaphores
        return
    with pool:
        try:
            pending: dict[Future[list[PredictedRow]], list[int]] = {
                pool.submit(
                    _predicted_rows, [measurements[index] for index in share], without
                ): share
                for share in _shares(measurements)
            }
            for done in as_completed(pending):
                keep(pending[done], done.result())
        except (BrokenProcessPool, OSError):
            return
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _predicted_rows(
    measurements: Sequence[Measurement], without: Sequence[str]
) -> list[PredictedRow]:
    return [predicted_row(measurement, without) for measurement in measurements]


def _shares(measurements: Sequence[Measurement]) -> list[list[int]]:
    """Indices of rows that belong together, the largest share first so that none comes late."""
    shares: dict[tuple[str, str, str], list[int]] = {}
    for index, row in enumerate(measurements):
        shares.setdefault((row.gpu, row.implementation, row.direction), []).append(index)
    return sorted(shares.values(), key=len, reverse=True)
