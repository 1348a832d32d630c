"""Jobs in order: what is there is skipped, what fails is left out with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from gpu_kernels.measure import suite
from gpu_kernels.measure.bench import Bench, Job, LeftOut
from gpu_kernels.measure.device import DeviceLost
from gpu_kernels.measure.implementations import BY_NAME
from gpu_kernels.measure.row_file import Row, RowFile
from tests.gpu_kernels.measure.fakes import ENVIRONMENT, FakeDevice, bench


def job(row_id: str, fault: Exception | None = None, *, own: bool = False) -> Job:
    def run(_: Bench, wanted: frozenset[str]) -> Iterator[Row]:
        assert row_id in wanted
        if fault is not None:
            raise fault
        yield {"id": row_id, "time_ms": "1", "output_ok": "true"}

    def failed(_: Bench) -> Row:
        return {"id": row_id, "output_ok": "false"}

    return Job((row_id,), run, failed if own else None)


def test_what_is_there_is_skipped(tmp_path: Path) -> None:
    lines: list[str] = []
    with RowFile(tmp_path / "run.csv") as file:
        suite.run([job("A")], bench(tmp_path), file, lines.append)
    with RowFile(tmp_path / "run.csv") as file:
        suite.run([job("A"), job("B")], bench(tmp_path), file, lines.append)
        assert [row["id"] for row in file.rows] == ["A", "B"]
    assert lines == ["[1/1] A  1 ms", "[2/2] B  1 ms"]


def test_a_failure_is_left_out_and_the_next_runs(tmp_path: Path) -> None:
    lines: list[str] = []
    todo = [
        job("A", RuntimeError("No available kernel.\nAborting")),
        job("B", LeftOut("no counters")),
        job("C", ValueError("a bad tile"), own=True),
        job("D", LeftOut("nothing"), own=True),
        job("E"),
    ]
    with RowFile(tmp_path / "run.csv") as file:
        assert suite.run(todo, bench(tmp_path), file, lines.append) == 4
        rows = {row["id"]: row for row in file.rows}
    assert lines[0] == "[1/5] left out: A: RuntimeError: No available kernel."
    assert lines[1] == "[2/5] left out: B: no counters"
    assert set(rows) == {"C", "E"}
    assert (rows["C"]["output_ok"], rows["C"]["notes"]) == ("false", "ValueError: a bad tile")


def test_a_gpu_that_is_lost_stops_the_run(tmp_path: Path) -> None:
    class Lost(FakeDevice):
        def synchronize(self) -> None:
            raise DeviceLost("an illegal memory access was encountered")

    with RowFile(tmp_path / "run.csv") as file:
        todo = [job("A"), job("B", RuntimeError("illegal")), job("C")]
        with pytest.raises(DeviceLost, match="illegal memory access"):
            suite.run(todo, bench(tmp_path, Lost()), file, lambda _: None)
        assert [row["id"] for row in file.rows] == ["A"]


@pytest.mark.parametrize("name", ["quick", "full"])
def test_ids_are_unique_and_the_same_every_time(name: str) -> None:
    ids = [row_id for job in suite.jobs(name, ENVIRONMENT) for row_id in job.ids]
    assert len(set(ids)) == len(ids)
    assert ids == [row_id for job in suite.jobs(name, ENVIRONMENT) for row_id in job.ids]
    assert all(row_id.startswith("h200-sxm ") for row_id in ids)
    bench = "gpu-kernels {} b4 h48 q4096 k4096 d32 full fp16 stream warm"
    assert {f"h200-sxm {bench.format(way)}" for way in ("fwd", "bwd")} <= set(ids)
    for implementation in BY_NAME:
        assert any(f" {implementation} " in row_id for row_id in ids)


def test_a_full_run_goes_on_from_a_quick_one() -> None:
    quick, full = (
        {row_id for job in suite.jobs(name, ENVIRONMENT) for row_id in job.ids}
        for name in ("quick", "full")
    )
    assert not quick - full
