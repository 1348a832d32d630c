"""Megatron-LM's chain: bytes a score, kernel by kernel, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fasim.hardware import Gpu
from fasim.problem import Attention
from fasim.readings import numerics
from fasim.readings.traffic import traffic
from fasim.schedules import catalog
from fasim.schedules.plan import Refused
from tests.readings.backward_forms import (
    GemmTiles,
    key_gradient,
    query_gradient,
    scale,
    standard_backward,
)
from tests.readings.chains import shape_of

PROBLEM = Attention(2, 3, 256, 192, 64)


@pytest.mark.parametrize("causal", [False, True])
def test_bytes_a_score_and_numerics_agree(a100: Gpu, causal: bool) -> None:
    """Forward 8. Backward 14, the fused kernel's 6 of them; 20 with PyTorch's, without a mask."""
    problem = replace(PROBLEM, causal=causal, direction="both")
    plan = catalog.plan(problem, a100, implementation="megatron")
    exact = traffic(plan.kernels).kernels
    run = numerics.run(plan.kernels, numerics.random_inputs(problem))
    scores = 2 * 3 * 256 * 192
    by_kernel = {
        kernel.kernel: sum(
            access.total_bytes
            for name, access in kernel.compulsory.items()
            if name in ("S", "P", "dP", "P_dP", "dS")
        )
        / scores
        for kernel in exact
    }
    assert by_kernel == {
        "query_key": 2,
        "softmax": 4,
        "probability_value": 2,
        "copy_O_copy": 0,
        "value_gradient": 2,
        "probability_gradient": 2,
        **({} if causal else {"grad_output": 6}),
        "softmax_gradient": 6,
        "query_gradient": 2,
        "scale_dQ_unscaled": 0,
        "key_gradient": 2,
        "scale_dK_unscaled": 0,
    }
    for kernel, level in zip(exact, run.kernels, strict=True):
        assert {n: a for n, a in kernel.global_.items() if a.total_bytes} == level


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_backward_moves_what_the_textbook_chain_does(a100: Gpu, dropout: float) -> None:
    """And dQ and dK once more, to be scaled."""
    problem = replace(PROBLEM, seqlen_q=130, causal=True, direction="backward", dropout=dropout)
    kernels = catalog.plan(problem, a100, implementation="megatron").kernels
    exact = traffic(kernels).kernels
    run = numerics.run(kernels, numerics.random_inputs(problem))
    shape, gemm = shape_of(problem), GemmTiles(128, 128, 32)
    query, key = shape.query, shape.key
    *before, _, _ = standard_backward(shape, gemm)
    closed = [
        *before,
        query_gradient(shape, gemm, dq="dQ_unscaled"),
        scale("dQ_unscaled", query, {"dQ": (0, query)}),
        key_gradient(shape, gemm, "key_gradient", "dS", "Q", {"dK_unscaled": (0, key)}),
        scale("dK_unscaled", key, {"dK": (0, key)}),
    ]
    assert [kernel.kernel for kernel in exact] == [kernel.kernel for kernel in closed]
    for kernel, level, counted in zip(exact, run.kernels, closed, strict=True):
        for found in (kernel.global_, level):
            moved = {n: (a.read_bytes, a.write_bytes) for n, a in found.items() if a.total_bytes}
            assert moved == counted.global_


def test_short_rows_go_by_twos(a100: Gpu) -> None:
    for keys, rows in ((128, 8), (132, 4)):
        problem = Attention(1, 1, 64, keys, 64, causal=True)
        plan = catalog.plan(problem, a100, implementation="megatron")
        assert plan.kernels[1].tiles["q"] == rows


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (replace(PROBLEM, seqlen_k=16, causal=True), "17 to 16384 keys, a multiple of 4, not 16"),
        (replace(PROBLEM, seqlen_k=1002, causal=True), "a multiple of 4, not 1002"),
        (replace(PROBLEM, dtype="fp32"), "it takes fp16 and bf16, not fp32"),
        (Attention(1, 4, 64, 64, 64, kv_heads=2), "as many key/value heads"),
    ],
)
def test_what_it_does_not_take(a100: Gpu, problem: Attention, message: str) -> None:
    with pytest.raises(Refused, match=message):
        catalog.plan(problem, a100, implementation="megatron")
