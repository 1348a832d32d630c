"""Asking the machine: both tools, either, neither, and answers that say nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

from fasim.verbs.machine.gpu_query import SMI_FIELDS, NoGpu, query_gpu, run_command
from tests.verbs.machine.machines import H200_SMI, H200_TORCH, machine


def test_both_tools_are_asked() -> None:
    asked: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return machine(H200_SMI, H200_TORCH)(command)

    query = query_gpu(run)
    assert (query.name, query.architecture) == ("NVIDIA H200", "sm_90")
    assert query.smi["memory.total"] == "143771"
    assert query.torch["multi_processor_count"] == 132
    smi, torch = asked
    assert smi[1:] == [f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader,nounits"]
    assert torch[0] == sys.executable


def test_either_tool_is_enough() -> None:
    assert query_gpu(machine(smi=H200_SMI)).architecture == "sm_90"
    assert query_gpu(machine(torch=H200_TORCH)).architecture == "sm_90"


def test_what_a_tool_does_not_know_is_left_out() -> None:
    query = query_gpu(machine(smi="NVIDIA L4, 8.9, 550, 23034, [N/A], , [Not Supported]"))
    assert set(query.smi) == {"name", "compute_cap", "driver_version", "memory.total"}
    unknown = query_gpu(machine(smi="NVIDIA L4, [N/A], 550, 23034, 2040, 6251, 72.00"))
    with pytest.raises(NoGpu, match="NVIDIA L4"):
        _ = unknown.architecture


def test_the_first_of_several_gpus_is_taken() -> None:
    assert query_gpu(machine(smi=f"{H200_SMI}\n{H200_SMI.replace('H200', 'L4')}")).name == (
        "NVIDIA H200"
    )


@pytest.mark.parametrize(
    ("smi", "torch"),
    [(None, None), (None, "null"), ("No devices were found", "null"), ("", "Segmentation fault")],
)
def test_without_a_gpu_it_says_so_in_a_line(smi: str | None, torch: str | None) -> None:
    with pytest.raises(NoGpu) as refused:
        query_gpu(machine(smi, torch))
    assert "no NVIDIA GPU" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_tool_that_is_not_there_is_one_that_fails() -> None:
    assert run_command(["no-such-program-of-any-machine"]).returncode == 127
    assert run_command([sys.executable, "-c", "print(1)"]).stdout.strip() == "1"
