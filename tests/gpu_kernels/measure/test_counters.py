"""What Nsight Compute prints, as bytes and shares; what it cannot, as a line."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from fasim.problem import Attention
from gpu_kernels.measure import counters
from gpu_kernels.measure.bench import LeftOut
from gpu_kernels.measure.one_case import arguments_of, parse
from tests.gpu_kernels.measure.fakes import ENVIRONMENT, bench

PRINTED = """==PROF== Connected to process 1
==PROF== Disconnected from process 1
"ID","Process ID","Kernel Name","dram__bytes_read.sum","dram__bytes_write.sum",\
"gpu__time_duration.sum","lts__t_sectors_srcunit_tex_op_read.sum",\
"sm__inst_executed_pipe_xu.avg.pct_of_peak_sustained_active",\
"sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active"
"","","","byte","byte","ns","sector","%","%"
"0","1","first","1,000","500","2000","10","0.1","3"
"1","1","second","2000000000","0","9000","90","40.5","71.25"
"""
PROBLEM = Attention(1, 2, 128, 128, 64, 1, causal=True, direction="backward")


def ncu(monkeypatch: pytest.MonkeyPatch, program: str | None = "/usr/bin/ncu") -> None:
    monkeypatch.setattr(counters.shutil, "which", lambda name: program if name == "ncu" else None)


def test_kernels_and_sums() -> None:
    counted = counters.Counted(counters.parse(PRINTED))
    assert len(counted.kernels) == 2
    assert counted.total(*counters.DRAM) == 2_000_001_500
    assert counted.total(counters.L2["l2_read_gb"]) == 100
    assert counted.pipes() == {"tensor": 71.25, "xu": 40.5}
    assert counters.parse("==ERROR== nothing") == ()


def test_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ncu(monkeypatch)
    asked: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, PRINTED, "")

    job = next(counters.jobs("quick", ENVIRONMENT, run))
    (row,) = job.run(bench(tmp_path), frozenset(job.ids))
    assert (row["id"], row["hbm_gb"], row.get("time_ms")) == (job.ids[0], "2", None)
    assert (row["launch"], row["l2"]) == ("kernel", "cold")
    told = dict(item.split("=") for item in row["counters"].split())
    assert told["l2_read_gb"] == "3.2e-06"
    assert (told["tensor_pct"], told["kernels"]) == ("71.2", "2")
    assert asked[0][0] == "/usr/bin/ncu"
    assert "--clock-control=none" in asked[0]


def test_what_cannot_be_read_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "==ERROR== ERR_NVGPUCTRPERM\n", "")

    ncu(monkeypatch)
    profiler = counters.Profiler(refused)
    for said in ("read nothing: ==ERROR== ERR_NVGPUCTRPERM", "did not work before"):
        with pytest.raises(LeftOut, match=said):
            profiler.counted("gpu-kernels", PROBLEM, ())
    ncu(monkeypatch, None)
    with pytest.raises(LeftOut, match="not installed"):
        profiler.counted("gpu-kernels", PROBLEM, ())


def test_one_failure_among_others_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = iter([PRINTED, "", PRINTED])

    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, next(printed), "")

    ncu(monkeypatch)
    profiler = counters.Profiler(run)
    profiler.counted("gpu-kernels", PROBLEM, ())
    with pytest.raises(LeftOut, match="exit status 1"):
        profiler.counted("cudnn", PROBLEM, ())
    assert profiler.counted("gpu-kernels", PROBLEM, ()).kernels


def test_a_command_line_is_its_problem() -> None:
    assert parse(arguments_of("cudnn", PROBLEM)) == ("cudnn", PROBLEM)
