"""Compiled kernels against the model: what is compared, and that each difference shows."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest

from fasim.problem import ProblemError
from fasim.report.kernels import compiled_text
from fasim.verbs.kernels.compiled_kernel import CompiledKernel
from fasim.verbs.kernels.compiled_kernels import CompiledKernels, check, compile_kernels

# As Triton 3.9 compiled the forward kernel with the tutorial's tile, warps and stages.
FORWARD = CompiledKernel.from_dict(
    {
        "kernel": "forward",
        "arch": "sm_80",
        "toolchain": "triton 3.9.0, ptxas 12.9.86",
        "schedule": "triton",
        "kernel_name": "flash2_forward",
        "head_dim": 64,
        "tile_m": 128,
        "tile_n": 64,
        "dtype": "fp16",
        "causal": False,
        "num_warps": 4,
        "num_stages": 4,
        "shared_memory_bytes": 65536,
        "buffer_bytes": 65536,
        "buffers": [
            {"name": "q", "count": 1, "tile": [128, 64], "dtype": "f16"},
            {"name": "k", "count": 3, "tile": [64, 64], "dtype": "f16"},
            {"name": "v", "count": 3, "tile": [64, 64], "dtype": "f16"},
        ],
        "registers": 255,
        "spills": 0,
        "unroll": 1.0,
        "instructions": {
            "HMMA": 128.0,
            "FMNMX": 72.0,
            "FFMA": 72.0,
            "FMUL": 68.0,
            "MUFU.EX2": 68.0,
            "FADD": 68.0,
            "LDSM": 40.0,
        },
    }
)


def with_count(name: str, count: float) -> CompiledKernel:
    return replace(FORWARD, instructions={**FORWARD.instructions, name: count})


def test_a_kernel_as_it_is_modelled() -> None:
    checked = check(FORWARD)
    assert checked.faults == ()
    assert checked.modelled is not None
    assert checked.modelled.shared_memory_bytes == 65536
    assert checked.modelled.work["matmul"] == 128
    assert checked.modelled.work["exp2"] == 68


@pytest.mark.parametrize(
    ("compiled", "said"),
    [
        (replace(FORWARD, spills=20), "20 registers are spilled"),
        (with_count("HMMA", 120), "matmul: 120 an iteration, predicted 128"),
        (with_count("MUFU.EX2", 64), "exp2: 64 an iteration, predicted 68"),
        (with_count("FMUL", 132), "fp32: 272 an iteration"),
        (replace(FORWARD, unroll=1.5), "no whole number"),
        (replace(FORWARD, warps=8), "8 warps, planned with 4"),
        (replace(FORWARD, tile=(128, 32)), "tile is 128x32, planned 128x64"),
        (replace(FORWARD, buffer_bytes=32768), "the IR's buffers 32768"),
        (
            replace(FORWARD, shared_memory_bytes=81920, buffer_bytes=81920),
            "81920 bytes, the mapping's buffers 65536",
        ),
    ],
)
def test_each_difference_is_told(compiled: CompiledKernel, said: str) -> None:
    checked = check(compiled)
    assert any(said in fault for fault in checked.faults), checked.faults
    assert not CompiledKernels((checked,), ()).agrees
    assert said in compiled_text(CompiledKernels((checked,), ()))


def test_two_at_once_count_twice() -> None:
    packed = {"FADD2": 34.0, "FFMA2": 36.0, "FMUL2": 34.0, "FMNMX3": 36.0, "FADD": 1.0}
    work = replace(FORWARD, instructions=packed).work
    assert (work["fp32"], work["max"]) == (209, 72)


def test_tcgen05_is_not_compared_with_another_unit() -> None:
    blackwell = replace(
        FORWARD,
        arch="sm_100",
        shared_memory_bytes=81952,
        buffer_bytes=81952,
        instructions={"UTCHMMA": 8.0},
    )
    checked = check(blackwell)
    assert checked.faults == ()
    assert "tcgen05" in checked.reason


def test_scratch_without_a_tile_is_told_and_no_fault() -> None:
    dropout = replace(
        FORWARD,
        schedule="gpu-kernels-standard",
        kernel_name="dropout",
        tile=(1, 4096),
        warps=8,
        shared_memory_bytes=8192,
        buffer_bytes=0,
        buffers=(),
        instructions={},
    )
    checked = check(dropout)
    assert checked.modelled is not None
    assert checked.faults == ()
    assert "8192 bytes in which elements change threads" in checked.reason
    assert check(replace(dropout, shared_memory_bytes=512)).reason == ""
    assert check(replace(dropout, shared_memory_bytes=8192, buffer_bytes=8192)).faults


@pytest.mark.parametrize(
    ("schedule", "kernel"),
    [
        ("gpu-kernels", "sum_dK"),
        ("gpu-kernels-standard", "dropout_gradient"),
        ("gpu-kernels-split-kv", "combine"),
    ],
)
def test_kernels_of_every_chain_have_a_model(schedule: str, kernel: str) -> None:
    found = replace(FORWARD, schedule=schedule, kernel_name=kernel, instructions={})
    assert check(found).modelled is not None


def test_a_kernel_without_a_model_says_so() -> None:
    checked = check(replace(FORWARD, schedule="flash2", kernel_name="no_such"))
    assert checked.modelled is None
    assert "no_such" in checked.reason
    assert checked.faults == ()


def test_what_does_not_compile_is_told() -> None:
    failed = CompiledKernels((), (("forward", "sm_100", "ptxas: unknown target"),))
    assert not failed.agrees
    assert "forward on sm_100: ptxas: unknown target" in compiled_text(failed)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ProblemError, match="arch is 'sm_8'; choose from sm_80, sm_89"):
        compile_kernels(["sm_80", "sm_8"])


def test_without_triton_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> None:
        assert name in ("torch", "triton")

    monkeypatch.setattr(importlib.util, "find_spec", find)
    with pytest.raises(ProblemError, match="needs torch and triton; install fasim with its extra"):
        compile_kernels(["sm_80"])
