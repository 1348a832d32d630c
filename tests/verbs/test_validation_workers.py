"""Sharing rows among processes: what belongs together, and a system that starts none."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool

import pytest

from fasim.verbs import validation_workers
from fasim.verbs.measured.measurement_file import read
from fasim.verbs.measured.measurements import Measurement, published
from fasim.verbs.validation_workers import PredictedRow, predict_rows


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> tuple[Measurement, ...]:
    """All published rows, each predicted by its own place in the file."""
    found = read(published()).rows
    places = {id(row): float(index) for index, row in enumerate(found)}
    monkeypatch.setattr(
        validation_workers, "predicted_row", lambda row, *_: PredictedRow(time_ms=places[id(row)])
    )
    return found


def test_shares_hold_every_row_once_and_what_belongs_together() -> None:
    found = read(published()).rows
    shares = validation_workers._shares(found)
    assert sorted(index for share in shares for index in share) == list(range(len(found)))
    kinds = [
        {(found[i].gpu, found[i].implementation, found[i].direction) for i in s} for s in shares
    ]
    assert all(len(kind) == 1 for kind in kinds)
    assert len(shares) == len(set.union(*kinds))
    assert [len(share) for share in shares] == sorted(map(len, shares), reverse=True)


@pytest.mark.parametrize("fault", [OSError("no semaphores"), BrokenProcessPool("killed")])
def test_rows_that_no_process_predicted_are_predicted_here(
    rows: tuple[Measurement, ...], monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """A pool that cannot start, and one whose process dies."""

    class Pool:
        def __init__(self, *_: object) -> None:
            if isinstance(fault, OSError):
                raise fault

        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def submit(self, *_: object) -> None:
            raise fault

        def shutdown(self, **_: object) -> None:
            pass

    monkeypatch.setattr(validation_workers, "ProcessPoolExecutor", Pool)
    seen: list[int] = []
    predicted = predict_rows(rows, processes=2, progress=lambda done, _: seen.append(done))
    assert [row.time_ms for row in predicted] == list(range(len(rows)))
    assert seen == list(range(1, len(rows) + 1))
