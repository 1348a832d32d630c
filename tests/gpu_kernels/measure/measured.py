"""A run on a fake GPU, with TRITON_INTERPRET=1; `test_measured.py` runs it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fasim.problem import Attention
from fasim.verbs.measured.device_measurements import read_device_rows
from fasim.verbs.validate import validate
from gpu_kernels import forward
from gpu_kernels.measure import attention_jobs, device_facts, one_case, probes, suite
from gpu_kernels.measure.attention_cases import FUSED, GRAPH, STANDARD, AttentionCase, both
from gpu_kernels.measure.bench import Bench, Job
from gpu_kernels.measure.row_file import RowFile
from gpu_kernels.measure.telemetry import Telemetry
from gpu_kernels.measure.timing import Timer
from tests.gpu_kernels.measure.fakes import ENVIRONMENT, FakeDevice, bench

pytestmark = pytest.mark.filterwarnings("ignore")  # triton's own notices, torch's of its backends

SMALL = Attention(2, 2, 64, 64, 32, 1, causal=True)
DECODED = Attention(1, 4, 1, 600, 64, 2)
DECODERS = ("gpu-kernels-decode", "gpu-kernels-split-kv", "pytorch-math")


def attention() -> list[Job]:
    cases = [
        AttentionCase(SMALL, FUSED, GRAPH),
        AttentionCase(replace(SMALL, direction="backward"), FUSED, GRAPH[::2]),
        *both(AttentionCase(SMALL, (STANDARD,), GRAPH[:1])),
        AttentionCase(DECODED, DECODERS, GRAPH[:1]),
    ]
    return [job for case in cases for job in attention_jobs.jobs(case, ENVIRONMENT)]


def ran(folder: Path, jobs: list[Job], on: Bench | None = None) -> tuple[RowFile, list[str]]:
    lines: list[str] = []
    with RowFile(folder / "run.csv") as file:
        suite.run(jobs, on or bench(folder), file, lines.append)
    return file, lines


def test_attention_is_checked_timed_and_read_back(tmp_path: Path) -> None:
    file, lines = ran(tmp_path, attention())
    left_out = {line.split()[4] for line in lines if "left out" in line}
    assert left_out <= {"cudnn"}
    rows = {row["id"]: row for row in file.rows}
    ours = [row for row in file.rows if row["implementation"].startswith("gpu-kernels")]
    assert {row["output_ok"] for row in ours} == {"true"}
    assert {row["implementation"] for row in ours} == {
        "gpu-kernels",
        "gpu-kernels-standard",
        "gpu-kernels-decode",
        "gpu-kernels-split-kv",
    }
    row = rows["h200-sxm gpu-kernels fwd b2 h2/1 q64 k64 d32 causal fp16 stream warm"]
    assert (row["time_ms"], row["spread_ms"], row["confidence"]) == ("1", "0", "high")
    assert (row["causal"], row["dropout"], row["kv_heads"]) == ("true", "0", "1")
    assert row["driver"] == "580.1"
    graphs = {
        (row["implementation"], row["direction"]) for row in file.rows if row["launch"] == "graph"
    }
    assert ("gpu-kernels", "bwd") in graphs
    assert ("pytorch-math", "bwd") not in graphs
    validation = validate(file.path)
    assert not validation.unreadable
    assert validation.wrong_outputs == ()
    assert {row.measurement.implementation for row in validation.rows} >= {"gpu-kernels"}


def test_a_wrong_output_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = forward.forward

    def wrong(*args: torch.Tensor, **kwargs: object) -> tuple[torch.Tensor, torch.Tensor]:
        o, lse = right(*args, **kwargs)
        o[-1, -1, -1] += 0.1
        return o, lse

    monkeypatch.setattr(forward, "forward", wrong)
    job = attention()[0]
    file, lines = ran(tmp_path, [job])
    assert {row["output_ok"] for row in file.rows} == {"false"}
    assert "O errs" in file.rows[0]["notes"]
    assert all(line.endswith("WRONG OUTPUT") for line in lines)


def test_no_memory_for_the_reference_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(attention_jobs, "judged", full)
    file, _ = ran(tmp_path, attention()[:1])
    assert {row["output_ok"] for row in file.rows} == {""}
    assert file.rows[0]["notes"] == "no memory for the reference"


def quickened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that repeat themselves for long do nothing; `python -m gpu_kernels.interpret` runs
    them, a few times."""
    monkeypatch.setattr(device_facts, "CLOCK_S", 0.002)
    monkeypatch.setattr(device_facts.exp2_rate, "exp2_chain", lambda x: x)
    for name in ("read_sweep", "write_sweep", "add_sweep"):
        monkeypatch.setattr(device_facts.sweep_rate, name, lambda x, programs: x[:programs])


def test_device_facts_are_what_profiles_detect_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_facts, "DRAM_SETS", {"quick": (2**20,)})
    monkeypatch.setattr(device_facts, "GEMM_SIZES", {"quick": (64,)})
    monkeypatch.setattr(device_facts, "EMPTY_LAUNCHES", 3)
    quickened(monkeypatch)
    with Telemetry(lambda: iter([(1980.0, 300.0)] * 3)) as telemetry:
        telemetry.typical = lambda *_: (1980.0, 300.0)  # type: ignore[method-assign]
        on = bench(tmp_path, telemetry=telemetry)
        file, lines = ran(tmp_path, list(device_facts.jobs("quick", ENVIRONMENT)), on)
    assert not [line for line in lines if "left out" in line]
    rows = {row.id: row for row in read_device_rows(file.path, ["h200-sxm"])}
    read = rows["h200-sxm DRAM read 1048576"]
    assert (read.m, read.value) == (2**20, pytest.approx(2**20 / 1e-3, rel=1e-5))
    assert {row.operator for row in rows.values()} == {
        "DRAM read",
        "DRAM write",
        "DRAM copy",
        "L2 read",
        "L2 write",
        "launch stream",
        "launch graph",
        "GEMM (torch.matmul)",
        "SM clock",
    }
    gemm = rows["h200-sxm GEMM (torch.matmul) 64 bf16"]
    assert gemm.flops_per_s == pytest.approx(2 * 64**3 / 1e-3, rel=1e-4)
    assert rows["h200-sxm SM clock"].value == 1.98e9
    (exp2,) = (row for row in file.rows if row["operator"] == "exp2 rate")
    assert exp2["notes"].endswith("a clock and SM")


def test_without_clock_and_power_only_they_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quickened(monkeypatch)
    jobs = [job for job in device_facts.jobs("quick", ENVIRONMENT) if "SM clock" in job.ids[0]]
    file, lines = ran(tmp_path, jobs)
    assert file.rows == []
    assert lines[0].endswith("neither NVML nor nvidia-smi tells the clock")


def test_probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = torch.tensor([0, 1] * 4, dtype=torch.int32), torch.arange(8) + 100
    monkeypatch.setattr(probes.block_order, "block_order", lambda *_: order)
    monkeypatch.setattr(probes.convert_rate, "convert_chain", lambda x: x)
    quickened(monkeypatch)
    monkeypatch.setattr(probes, "TRACED_PROBLEM", Attention(1, 1, 64, 64, 32, dtype="bf16"))
    monkeypatch.setattr(probes, "GEMM_SIZE", 64)
    monkeypatch.setattr(probes, "IDLE_S", 0.02)
    monkeypatch.setattr(probes, "TRACED_S", 0.05)

    def readings() -> Iterator[tuple[float, float]]:
        while True:
            yield 1500.0, 650.0
            time.sleep(0.001)

    with Telemetry(readings) as telemetry:
        on = bench(tmp_path, FakeDevice(), telemetry, time.perf_counter)
        file, lines = ran(tmp_path, list(probes.jobs(ENVIRONMENT)), on)
    assert not [line for line in lines if "left out" in line]
    by_operator = {row["operator"]: row for row in file.rows}
    assert by_operator["block order"]["value"] == "1"
    assert by_operator["clock under attention"]["value"] == "1500"
    assert by_operator["power under GEMM"]["value"] == "650"
    blocks = (tmp_path / "run.blocks.csv").read_text(encoding="utf-8").splitlines()
    assert blocks[:2] == ["gpu,block,sm,begin_ns", "h200-sxm,0,0,0"]
    trace = (tmp_path / "run.trace.csv").read_text(encoding="utf-8")
    assert {line.split(",")[1] for line in trace.splitlines()[1:]} == {"attention", "GEMM"}


def test_one_case_profiles_the_second_call_alone() -> None:
    happened: list[str] = []
    device = FakeDevice()
    profiler = SimpleNamespace(
        start=lambda: happened.append(str(device.happened[-2:])),
        stop=lambda: happened.append("stop"),
    )
    one_case.run("gpu-kernels", SMALL, device, profiler)
    assert happened == ["[('flush',), ('synchronize',)]", "stop"]


def test_the_timer_s_default_clock_is_the_telemetry_s() -> None:
    assert Timer(FakeDevice()).clock is time.perf_counter
