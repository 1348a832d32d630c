"""Gradients added to earlier ones: three kernels more, each tensor read twice and written once."""

import numpy as np
import pytest

from fasim.hardware import load
from fasim.problem import Attention
from fasim.readings import numerics
from fasim.readings.traffic import traffic
from fasim.schedules import catalog
from fasim.schedules.plan import Options, Refused

A100 = load("a100").gpu
ADDED = Options(accumulates_grads=True)
PROBLEM = Attention(2, 4, 130, 70, 64, kv_heads=2, direction="backward")


@pytest.mark.parametrize("implementation", ["flash-attn-2", "triton", "pytorch"])
@pytest.mark.parametrize("direction", ["backward", "both"])
def test_each_gradient_is_read_twice_and_written_once_more(implementation, direction):
    problem = Attention(2, 4, 256, 256, 64, direction=direction)
    plain = catalog.plan(problem, A100, None, implementation).kernels
    kernels = catalog.plan(problem, A100, None, implementation, ADDED).kernels
    assert [k.name for k in kernels[: len(plain)]] == [k.name for k in plain]
    size = 2 * 4 * 256 * 64 * 2
    exact = traffic(kernels).kernels[len(plain) :]
    assert [k.name for k in kernels[len(plain) :]] == [f"accumulate_d{n}" for n in "QKV"]
    for name, moved in zip("QKV", exact, strict=True):
        assert moved.compulsory[f"d{name}"].read_bytes == size
        assert moved.global_[f"{name}_grad"].read_bytes == size
        assert moved.global_[f"{name}_grad"].write_bytes == size


def test_they_are_added():
    kernels = catalog.plan(PROBLEM, A100, None, "flash-attn-2", ADDED).kernels
    inputs = numerics.random_inputs(PROBLEM)
    results = numerics.run(kernels, inputs).tensors
    for name in "QKV":
        total = inputs[f"{name}_grad"] + results[f"d{name}"]
        np.testing.assert_allclose(results[f"{name}_grad"], total, atol=4e-3)


def test_autotuned_candidates_add_too_and_forward_refuses():
    problem = Attention(1, 4, 256, 256, 64, direction="both")
    for planned in catalog.plans(problem, A100, None, "triton-autotuned", ADDED):
        assert planned.kernels[-1].name == "accumulate_dV"
    with pytest.raises(Refused, match="forward leaves no gradients"):
        catalog.plan(Attention(1, 4, 256, 256, 64), A100, None, "triton", ADDED)
