"""Kernels interpreted and compiled, joined into one report."""

import json
from dataclasses import replace

import pytest

from fasim.cli import main
from fasim.report.kernel_validation import kernel_validation_text
from fasim.verbs.kernels.compiled_kernel import CompiledKernel
from fasim.verbs.kernels.compiled_kernels import CompiledKernels, KernelCheck
from fasim.verbs.kernels.kernel_validation import joined
from fasim.verbs.kernels.validate_kernels import CheckedKernel, KernelChecks

FORWARD = CompiledKernel(
    kernel="forward",
    arch="sm_80",
    toolchain="triton",
    schedule="gpu-kernels",
    kernel_name="flash2_forward",
    head_dim=64,
    tile=(128, 64),
    dtype="fp16",
    causal=False,
    warps=4,
    stages=3,
    shared_memory_bytes=49152,
    buffer_bytes=49152,
    buffers=(),
    registers=255,
    spills=0,
    unroll=1.0,
    instructions={},
)
WIDE = replace(FORWARD, head_dim=128, shared_memory_bytes=98304, registers=200, spills=8)


def validation(mismatches=(), faults=(), failed=()):
    return joined(
        KernelChecks(
            (CheckedKernel("flash2_forward", "sm_80", 4, 0.16, tuple(mismatches)),),
            4,
            {"triton": "3.9.0"},
        ),
        CompiledKernels(
            (KernelCheck(FORWARD, None, ()), KernelCheck(WIDE, None, tuple(faults))), tuple(failed)
        ),
    )


def test_variants_of_a_kernel_are_one_row_with_the_most_of_each():
    found = validation().to_dict()
    (row,) = found["kernels"]
    assert row == {
        "kernel": "flash2_forward",
        "arch": "sm_80",
        "cases": 4,
        "mismatches": 0,
        "faults": [],
        "variants": 2,
        "shared_memory_bytes": 98304,
        "registers": 255,
        "spills": 8,
    }
    assert found["agrees"]
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    "fault",
    [
        {"mismatches": ("K: read 2 bytes, predicted 1",)},
        {"faults": ("8 registers spill",)},
        {"failed": (("flash2_forward", "sm_80", "ptxas said no"),)},
    ],
)
def test_any_fault_is_a_mismatch_and_is_said(fault):
    found = validation(**fault)
    assert not found.agrees
    assert [kernel.to_dict()["mismatches"] for kernel in found.kernels] == [1]
    text = kernel_validation_text(found)
    assert "1 mismatches" in text
    assert found.kernels[0].faults[0] in text


def test_a_kernel_that_was_only_compiled_has_no_cases():
    only = joined(KernelChecks((), 0, {}), CompiledKernels((KernelCheck(FORWARD, None, ()),), ()))
    assert only.kernels[0].to_dict()["cases"] == 0
    assert kernel_validation_text(only)


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["fasim", "validate", "--kernels", *words])
    with pytest.raises(SystemExit) as leaving:
        main()
    return leaving.value.code, capsys.readouterr()


def test_without_triton_it_says_so_in_a_line(monkeypatch, capsys):
    monkeypatch.setattr("fasim.verbs.kernels.validate_kernels.find_spec", lambda _: None)
    status, printed = run(monkeypatch, capsys)
    assert status == 2
    assert printed.err.count("\n") == 1
    assert "torch is not installed" in printed.err


def test_the_command_line_exits_by_what_it_found(monkeypatch, capsys):
    found = validation()
    monkeypatch.setattr(
        "fasim.verbs.kernels.kernel_validation.validate_kernels", lambda *_, **__: found
    )
    assert run(monkeypatch, capsys, "--json")[0] == 0
    found = validation(faults=("8 registers spill",))
    status, printed = run(monkeypatch, capsys, "--json")
    assert status == 1
    assert json.loads(printed.out)["kernels"][0]["mismatches"] == 1
    assert run(monkeypatch, capsys, "--cases", "many")[0] == 2
