"""PyTorch's math backend: bytes a score, values, and a rate of the FP32 lanes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fasim.hardware import Gpu, load
from fasim.problem import Attention
from fasim.readings import numerics
from fasim.readings.traffic import traffic
from fasim.schedules import catalog
from fasim.schedules.plan import Refused
from fasim.verbs.predict import predict

PROBLEM = Attention(2, 3, 256, 192, 64)


@pytest.mark.parametrize("causal", [False, True])
def test_bytes_a_score_and_numerics_agree(a100: Gpu, causal: bool) -> None:
    """S written and read, P written and read, of four bytes; a mask adds a read and a write."""
    problem = replace(PROBLEM, causal=causal)
    plan = catalog.plan(problem, a100, implementation="pytorch-math")
    exact = traffic(plan.kernels)
    run = numerics.run(plan.kernels, numerics.random_inputs(problem))
    names = ("S", "S_masked", "P")
    moved = sum(exact.compulsory[name].total_bytes for name in names if name in exact.compulsory)
    assert moved == (24 if causal else 16) * 2 * 3 * 256 * 192
    query, key = 2 * 3 * 256 * 64, 2 * 3 * 192 * 64
    assert exact.compulsory["Q"].read_bytes == 2 * query
    assert exact.compulsory["Q_scaled"].write_bytes == 4 * query
    assert exact.compulsory["K_copy"].total_bytes == 8 * key
    assert exact.compulsory["O"].write_bytes == 2 * query
    for kernel, level in zip(exact.kernels, run.kernels, strict=True):
        assert {n: a for n, a in kernel.global_.items() if a.total_bytes} == level


def test_products_run_at_the_rate_of_the_fp32_lanes() -> None:
    """A long contraction (PV) reaches most of it, and never more."""
    profile = load("a100")
    gpu = profile.gpu
    found = predict(Attention(4, 16, 2048, 2048, 128), profile, implementation="pytorch-math")
    product = next(k for k in found.kernels if k.name == "probability_value")
    flops = 2 * 4 * 16 * 2048 * 2048 * 128
    assert 0.6 < flops / product.time_s / gpu.fp32_flops_per_s <= 1


def test_what_it_does_not_take(a100: Gpu) -> None:
    for problem, message in (
        (replace(PROBLEM, dtype="fp32"), "it takes fp16 and bf16, not fp32"),
        (replace(PROBLEM, direction="both"), "it runs forward"),
        (Attention(1, 4, 64, 64, 64, kv_heads=2), "as many key/value heads"),
    ):
        with pytest.raises(Refused, match=message):
            catalog.plan(problem, a100, implementation="pytorch-math")
