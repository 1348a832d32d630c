"""The main loops that are kept are those that the compiler makes here."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

if os.environ.get("TRITON_INTERPRET"):
    pytest.skip("kernels are interpreted here", allow_module_level=True)

from gpu_kernels.compile.__main__ import main
from gpu_kernels.compile.stored import FOLDER, file_of, store, stored_variants, text_of
from gpu_kernels.compile.targets import CAPABILITIES
from gpu_kernels.compile.toolchain import toolchain_version


def test_a_loop_is_kept_for_each_kernel_and_no_other() -> None:
    wanted = {file_of(variant, arch) for variant, arch in stored_variants()}
    assert wanted == {file.name for file in FOLDER.glob("*")}
    assert len(wanted) == 3 * 2 * 3  # architectures, head dimensions, kernels


def test_the_kept_loops_are_laid_out_as_they_are_written() -> None:
    for file in FOLDER.glob("*"):
        text = file.read_text(encoding="utf-8")
        assert text_of(json.loads(text)) == text


def test_what_is_not_kept_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store", "--arch", "sm_80,sm_100"]) == 2
    assert capsys.readouterr().err == "no loops of sm_100 are kept, only sm_80, sm_89, sm_90\n"
    assert main([]) == 2
    assert capsys.readouterr().err == "give --arch\n"


@pytest.mark.slow
def test_the_kept_loops_are_current(tmp_path: Path) -> None:
    kept = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in FOLDER.glob("*")}
    other = {
        loop["toolchain"]
        for loop in kept.values()
        if loop["toolchain"] != toolchain_version(CAPABILITIES[loop["arch"]])
    }
    if other:
        pytest.skip(f"they were compiled by {', '.join(sorted(other))}, which is not here")
    for file in store(tmp_path):
        made = json.loads(file.read_text(encoding="utf-8"))
        assert made == kept[file.name], f"{file.name}: python -m gpu_kernels.compile --store"
