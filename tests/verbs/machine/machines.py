"""Machines for tests: what nvidia-smi and torch would answer on them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence

from fasim.verbs.machine.gpu_query import Run

H200_SMI = "NVIDIA H200, 9.0, 570.86.15, 143771, 1980, 3201, 700.00"
H200_TORCH: dict[str, int | str] = {
    "name": "NVIDIA H200",
    "major": 9,
    "minor": 0,
    "total_memory": 150_110_011_392,
    "multi_processor_count": 132,
    "max_threads_per_multi_processor": 2048,
    "warp_size": 32,
    "regs_per_multiprocessor": 65536,
    "shared_memory_per_multiprocessor": 233_472,
    "shared_memory_per_block_optin": 232_448,
    "L2_cache_size": 62_914_560,
    "memory_clock_rate": 3_201_000,
    "memory_bus_width": 6144,
}


def machine(smi: str | None = None, torch: dict[str, int | str] | str | None = None) -> Run:
    """A runner whose nvidia-smi prints a line and whose torch prints properties.

    None: the tool is not there. A text for `torch` is printed as it is.
    """

    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        answer = torch if isinstance(torch, str) or torch is None else json.dumps(torch)
        printed = smi if "nvidia-smi" in command[0] else answer
        if printed is None:
            return subprocess.CompletedProcess(command, 127, "", "not found")
        return subprocess.CompletedProcess(command, 0, f"{printed}\n", "")

    return run
