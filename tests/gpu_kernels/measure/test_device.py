"""What a device gives without its GPU: the same random values, never zeros; parts of the keys."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch

from fasim.problem import Attention
from fasim.schedules.implementations.gpu_kernels_decode import num_splits
from gpu_kernels.measure.attention_jobs import parts
from gpu_kernels.measure.bench import LeftOut
from gpu_kernels.measure.implementations import (
    BY_NAME,
    CUDNN,
    OURS,
    operands,
    schedule_of,
)
from gpu_kernels.measure.suite import harmless, reason
from tests.gpu_kernels.measure.fakes import FakeDevice


def test_operands_are_random_and_always_the_same() -> None:
    problem = Attention(1, 4, 32, 64, 16, 2, "bf16")
    given, again = (operands(FakeDevice(), problem) for _ in range(2))
    assert [tuple(tensor.shape) for tensor in given.all()] == [
        (1, 4, 32, 16),
        (1, 2, 64, 16),
        (1, 2, 64, 16),
        (1, 4, 32, 16),
    ]
    for tensor, other in zip(given.all(), again.all(), strict=True):
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, other)
        assert 0.8 < float(tensor.float().std()) < 1.2
    assert not torch.equal(given.k, given.v)
    assert given.sm_count == 2


def test_splits_fill_the_gpu_and_keep_four_tiles_each() -> None:
    assert num_splits(Attention(1, 32, 1, 16384, 128, 8), 132) == 33
    assert num_splits(Attention(1, 32, 1, 1024, 128, 8), 132) == 4
    assert num_splits(Attention(64, 32, 1, 16384, 128, 8), 132) == 1
    assert num_splits(Attention(1, 1, 1, 16, 128), 132) == 1


def test_pytorch_s_causal_mask_is_another_where_lengths_differ() -> None:
    problem = Attention(1, 1, 16, 32, 16, causal=True)
    given = operands(FakeDevice(), problem)
    with (
        pytest.raises(ValueError, match="top-left"),
        BY_NAME["pytorch-math"].prepare(problem, given),
    ):
        pass


def test_cudnn_s_schedule_is_the_architecture_s() -> None:
    assert [schedule_of(CUDNN, arch) for arch in ("sm_80", "sm_90", "sm_100")] == [
        "flash2",
        "flash3",
        "flash3",
    ]
    assert schedule_of(OURS, "sm_80") == "flash2"


def test_first_and_last_head_are_checked() -> None:
    assert parts(Attention(2, 4, 8, 8, 16, 2)) == [(0, 0), (1, 1)]
    assert parts(Attention(1, 4, 8, 8, 16, 1)) == [(0, 0)]


def test_no_memory_says_nothing_of_a_kernel() -> None:
    assert harmless(torch.OutOfMemoryError("CUDA out of memory"))
    assert harmless(LeftOut("no tool"))
    assert not harmless(RuntimeError("launch failed"))
    assert reason(RuntimeError("")) == "RuntimeError: no reason given"
