"""Predictions rest on profiles and schedules alone: no measurement moves a time or a byte."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.drift import predicted_cases

ROOT = Path(__file__).parent.parent
EVERY = 9  # of the drift gate's cases, one in so many
PROGRAM = f"""
import json
from tests.drift import predicted_cases
print(json.dumps(predicted_cases({EVERY})))
"""


def test_deleting_every_measurement_changes_nothing(tmp_path):
    for package in ("fasim", "hardware_profiles", "gpu_kernels", "tests"):
        shutil.copytree(
            ROOT / package,
            tmp_path / package,
            ignore=shutil.ignore_patterns("__pycache__", "*.csv"),
        )
    shutil.rmtree(tmp_path / "gpu_kernels" / "measurements")
    (tmp_path / "fasim" / "verbs" / "trust.json").write_text("[]", encoding="utf-8")
    assert not list(tmp_path.rglob("*.csv"))
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == predicted_cases(EVERY)
