"""The quick suite, end to end, where there is a GPU."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from fasim.verbs.measured.device_measurements import read_device_rows
from fasim.verbs.measured.measurement_file import read


def no_gpu() -> str:
    """Why there is nothing to run on; empty if there is."""
    if find_spec("torch") is None or find_spec("triton") is None:
        return "torch and triton are not installed"
    import torch

    return "" if torch.cuda.is_available() else "torch sees no CUDA GPU"


@pytest.mark.gpu
@pytest.mark.slow
def test_the_quick_suite(tmp_path: Path) -> None:
    reason = no_gpu()
    if reason:
        pytest.skip(reason)
    out = tmp_path / "run.csv"
    command = [sys.executable, "-m", "gpu_kernels.measure", "--suite", "quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read(out).rows
    ours = [row for row in rows if row.implementation.startswith("gpu-kernels")]
    assert {row.fields["output_ok"] for row in ours if row.time_ms is not None} == {"true"}
    assert any(row.implementation == "pytorch-flash" for row in rows)
    operators = {row.operator for row in read_device_rows(out, {rows[0].gpu})}
    assert {"DRAM read", "L2 read", "launch stream", "launch graph"} <= operators
    assert "speed" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert len(read(out).rows) == len(rows)
