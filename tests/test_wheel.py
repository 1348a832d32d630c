"""The wheel carries what runs, and runs from another folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("fasim-*.whl"))


@pytest.mark.slow
def test_the_wheel_carries_profiles_kernels_and_measurements(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for profile in (ROOT / "hardware_profiles").glob("*.yaml"):
        assert f"hardware_profiles/{profile.name}" in names
    assert "gpu_kernels/measurements/published/attention.csv" in names
    assert "gpu_kernels/compiled/flash2_forward-d64-sm_80.json" in names
    assert not [name for name in names if name.startswith(("tests/", "docs/", "benchmarks/"))]


@pytest.mark.slow
def test_an_installed_wheel_runs_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*command, str(site), str(wheel)], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def run(*words: str) -> str:
        return subprocess.run(
            [sys.executable, *words],
            cwd=elsewhere,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    assert str(site) in run("-c", "import fasim; print(fasim.__file__)")
    line = "predict --gpu a100 --heads 2 --head-dim 64 --seqlen 256 --schedule flash2 --json"
    assert json.loads(run("-m", "fasim", *line.split()))["time_ms"] > 0
    line = "validate --gpu h100-sxm5 --implementation flash-attn-2 --min-seqlen 16384 --json"
    assert json.loads(run("-m", "fasim", *line.split()))["rows"]
