"""Measuring on this machine: what is missing is a line, what was measured stays."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from fasim.verbs.machine.gpu_query import GpuQuery, NoGpu, query_gpu
from fasim.verbs.machine.measure_here import measure_here
from tests.verbs.machine.machines import H200_SMI, H200_TORCH, machine


def gpu() -> GpuQuery:
    return query_gpu(machine(H200_SMI, H200_TORCH))


def gpu_without_torch() -> GpuQuery:
    return query_gpu(machine(H200_SMI, "null"))


def no_gpu() -> GpuQuery:
    return query_gpu(machine())


def never(command: Sequence[str]) -> int:
    raise AssertionError(f"{command} must not run")


def test_the_suite_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    ran: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> int:
        ran.append(command)
        return 0

    out = tmp_path / "rows.csv"
    measure_here(out, "full", query=gpu, torch_is_installed=lambda: True, run=run)
    module = ["-m", "gpu_kernels.measure", "--suite", "full", "--out", str(out)]
    assert ran == [[sys.executable, *module]]


@pytest.mark.parametrize(
    ("query", "torch", "said"),
    [
        (no_gpu, True, "no NVIDIA GPU in this machine"),
        (no_gpu, False, "torch and triton are not installed, nor is there a GPU"),
        (gpu, False, "not installed, the GPU NVIDIA H200 is there"),
        (gpu_without_torch, True, "torch does not see the GPU NVIDIA H200"),
    ],
)
def test_what_is_missing_is_a_line(query: object, torch: bool, said: str, tmp_path: Path) -> None:
    with pytest.raises(NoGpu) as refused:
        measure_here(
            tmp_path / "rows.csv",
            query=query,  # type: ignore[arg-type]
            torch_is_installed=lambda: torch,
            run=never,
        )
    message = str(refused.value)
    assert message.startswith("--run: ")
    assert said in message
    assert "--measured FILE" in message
    assert "\n" not in message


def test_a_run_that_stops_keeps_its_rows(tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"

    def run(_: Sequence[str]) -> int:
        out.write_text("id\nA\n", encoding="utf-8")
        return 130

    with pytest.raises(NoGpu, match=f"exit status 130; what was measured is in {out}"):
        measure_here(out, query=gpu, torch_is_installed=lambda: True, run=run)
    assert out.read_text(encoding="utf-8") == "id\nA\n"
    out.unlink()
    with pytest.raises(NoGpu, match="nothing was measured"):
        measure_here(out, query=gpu, torch_is_installed=lambda: True, run=lambda _: 2)


def test_a_wrong_output_is_for_the_report_to_tell(tmp_path: Path) -> None:
    measure_here(tmp_path / "x", query=gpu, torch_is_installed=lambda: True, run=lambda _: 1)
