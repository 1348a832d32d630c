"""`fasim validate --run`: measures on the GPU of this machine, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fasim.verbs.machine.gpu_query import GpuQuery, NoGpu, has_torch, query_gpu

SUITES = ("quick", "full")
MODULE = "gpu_kernels.measure"
ELSEWHERE = "measure on a machine that has one, then give its file by --measured FILE"
WRONG_OUTPUT = 1  # the exit status of a run that measured everything and found an output wrong


def measure_here(
    out: Path,
    suite: str = "quick",
    *,
    query: Callable[[], GpuQuery] = query_gpu,
    torch_is_installed: Callable[[], bool] = has_torch,
    run: Callable[[Sequence[str]], int] | None = None,
) -> None:
    """Runs the suite of measurements; its rows are in `out`, added to what the file had.

    Args:
        query, torch_is_installed, run: how to look and to run; injected by tests.

    Raises:
        NoGpu: no GPU, no torch, or a run that stopped; rows measured until then stay in `out`.
    """
    if not torch_is_installed():
        try:
            gpu = f"the GPU {query().name} is there"
        except NoGpu:
            gpu = "nor is there a GPU"
        raise NoGpu(f"--run: torch and triton are not installed, {gpu}; {ELSEWHERE}")
    try:
        found = query()
    except NoGpu as fault:
        raise NoGpu(f"--run: {fault}; {ELSEWHERE}") from None
    if not found.torch:
        raise NoGpu(f"--run: torch does not see the GPU {found.name}; {ELSEWHERE}")
    command = [sys.executable, "-m", MODULE, "--suite", suite, "--out", str(out)]
    status = (run or _run)(command)
    if status not in (0, WRONG_OUTPUT):
        kept = f"what was measured is in {out}" if out.is_file() else "nothing was measured"
        raise NoGpu(f"--run: measuring stopped with exit status {status}; {kept}")


def _run(command: Sequence[str]) -> int:
    """Runs a command whose output goes to stderr: stdout is the report's."""
    return subprocess.run(command, check=False, stdout=sys.stderr).returncode
