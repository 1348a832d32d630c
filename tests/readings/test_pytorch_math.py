"""PyTorch's math backend: bytes a score, values, and a rate of the FP32 lanes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasim.hardware import Gpu, load
from fasim.problem import Attention
from fasim.readings import numerics, reference
from fasim.readings.footprint import footprint
from fasim.readings.traffic import traffic
from fasim.schedules import catalog
from fasim.schedules.plan import Refused
from fasim.verbs.predict import predict
from tests.readings import backward_forms
from tests.readings.chains import problems, shape_of
from tests.readings.closed_forms import (
    Bytes,
    Counted,
    Shape,
    dropout,
    probability_value,
    query_key,
)

PROBLEM = Attention(2, 3, 256, 192, 64)


def both_levels(name: str, moved: Bytes) -> Counted:
    return Counted(name, compulsory=moved, global_=moved)


def convert(name: str, source: tuple[str, int], target: tuple[str, int]) -> Counted:
    """Read one tensor and write it again; of so many bytes each."""
    return both_levels(name, {source[0]: (source[1], 0), target[0]: (0, target[1])})


def cast(name: str, wide: int) -> Counted:
    return convert(f"cast_{name}", (name, wide // 2), (f"{name}_copy", wide))


def cast_back(name: str, wide: int) -> Counted:
    return convert(f"cast_{name}_copy", (f"{name}_copy", wide), (name, wide // 2))


def forward_form(shape: Shape) -> list[Counted]:
    """Everything between the casts is of four bytes, in 128 x 128 tiles with steps of 8."""
    scores, rows = shape.scores, shape.all_heads * shape.q_len
    s = "S_masked" if shape.causal else "S"
    one_mask = shape.q_len * shape.k_len * 4
    masked = {"S": (scores, 0), "S_masked": (0, scores)}
    add_mask = Counted(
        "add_mask",
        compulsory={**masked, "mask": (one_mask, 0)},
        global_={**masked, "mask": (shape.all_heads * one_mask, 0)},
    )
    p = f"P{shape.dropped}"
    return [
        cast("Q", shape.query),
        cast("K", shape.key),
        cast("V", shape.key),
        convert("scale_Q_copy", ("Q_copy", shape.query), ("Q_scaled", shape.query)),
        convert("scale_K_copy", ("K_copy", shape.key), ("K_scaled", shape.key)),
        query_key(shape, 128, 128, 8, "Q_scaled", "K_scaled"),
        *([add_mask] if shape.causal else []),
        both_levels("softmax", {s: (scores, 0), "P_unsafe": (0, scores)}),
        both_levels("softmax_hidden", {s: (scores, 0), "visible": (0, scores // 4)}),
        both_levels("softmax_hidden_rows", {"visible": (scores // 4, 0), "seeing": (0, rows)}),
        both_levels(
            "softmax_where", {"P_unsafe": (scores, 0), "seeing": (rows, 0), "P": (0, scores)}
        ),
        *dropout(shape),
        convert(f"cast_{p}", (p, scores), ("P_unused", scores // 2)),
        probability_value(shape, 128, 128, 8, "V_copy", "O_copy"),
        cast_back("O", shape.query),
    ]


def backward_form(shape: Shape) -> list[backward_forms.Counted | Counted]:
    gemm, scores = backward_forms.GemmTiles(128, 128, 8), shape.scores
    p, query, key = f"P{shape.dropped}", shape.query, shape.key
    key_gradient = backward_forms.key_gradient
    dk, dv = {"dK_scaled": (0, key)}, {"dV_copy": (0, key)}
    return [
        cast("dO", query),
        key_gradient(shape, gemm, "value_gradient", p, "dO_copy", dv),
        backward_forms.probability_gradient(shape, gemm, "dO_copy", "V_copy"),
        *backward_forms.dropout_gradient(shape),
        both_levels("grad_output", {"P": (scores, 0), "dP": (scores, 0), "P_dP": (0, scores)}),
        both_levels("softmax_gradient", {"P_dP": (scores, 0), "P": (scores, 0), "dS": (0, scores)}),
        key_gradient(shape, gemm, "key_gradient", "dS", "Q_scaled", dk),
        backward_forms.query_gradient(shape, gemm, "K_scaled", "dQ_scaled"),
        convert("scale_dK_scaled", ("dK_scaled", key), ("dK_copy", key)),
        convert("scale_dQ_scaled", ("dQ_scaled", query), ("dQ_copy", query)),
        cast_back("dQ", query),
        cast_back("dK", key),
        cast_back("dV", key),
    ]


@st.composite
def ungrouped(draw: st.DrawFn, directions: tuple[str, ...]) -> Attention:
    problem = draw(problems(("fp16", "bf16"), (8, 40, 64), dropout=True))
    direction = draw(st.sampled_from(directions))
    return replace(problem, kv_heads=problem.heads, direction=direction)


@given(problem=ungrouped(("forward", "backward", "both")))
@settings(max_examples=30, deadline=None)
def test_traffic_numerics_and_closed_form_agree_byte_for_byte(problem: Attention) -> None:
    kernels = catalog.plan(problem, load("a100").gpu, implementation="pytorch-math").kernels
    exact = traffic(kernels).kernels
    run = numerics.run(kernels, numerics.random_inputs(problem))
    shape = replace(shape_of(problem), element_bytes=4)
    expected = {
        "forward": forward_form(shape),
        "backward": backward_form(shape),
        "both": [*forward_form(shape), *backward_form(shape)],
    }[problem.direction]
    assert [kernel.kernel for kernel in exact] == [closed.kernel for closed in expected]
    for kernel, level, flops, closed in zip(
        exact, run.kernels, run.tensor_flops, expected, strict=True
    ):
        for found, counted in (
            (kernel.compulsory, closed.compulsory),
            (kernel.global_, closed.global_),
            (level, closed.global_),
        ):
            moved = {n: (a.read_bytes, a.write_bytes) for n, a in found.items() if a.total_bytes}
            assert moved == counted, kernel.kernel
        assert kernel.flops.tensor == closed.executed_flops == flops
        assert kernel.flops.tensor_useful == closed.useful_flops


@given(problem=ungrouped(("backward", "both")))
@settings(max_examples=25, deadline=None)
def test_gradients_are_right(problem: Attention) -> None:
    kernels = catalog.plan(problem, load("a100").gpu, implementation="pytorch-math").kernels
    inputs = numerics.random_inputs(problem)
    tensors = numerics.run(kernels, inputs).tensors
    arguments = (problem, *(inputs[name] for name in ("Q", "K", "V", "dO")))
    exact, plain = reference.gradients(*arguments), reference.gradients_in(*arguments)
    bands = reference.gradient_bands(*arguments)
    for name, truth, yardstick, band in zip(("dQ", "dK", "dV"), exact, plain, bands, strict=True):
        allowed = 2 * np.abs(yardstick - truth).max() + band
        assert np.abs(tensors[name] - truth).max() <= allowed, name


def test_bytes_a_score(a100: Gpu) -> None:
    """Forward 16, and 14 for rows that see nothing, 6 for a P that nobody takes; backward 40.

    A mask is 8 more, dropout 9 each way.
    """
    for causal, dropout_, forward, backward in (
        (False, 0.0, 36, 40),
        (True, 0.0, 44, 40),
        (False, 0.1, 45, 49),
    ):
        for direction, expected in (("forward", forward), ("backward", backward)):
            problem = replace(PROBLEM, causal=causal, dropout=dropout_, direction=direction)
            kernels = catalog.plan(problem, a100, implementation="pytorch-math").kernels
            compulsory = traffic(kernels).compulsory
            names = {tensor.name for kernel in kernels for tensor in kernel.tensors}
            scores = [n for n in names if n[:2] in ("S", "S_", "P", "P_", "dP", "dS")]
            moved = sum(
                compulsory[n].total_bytes for n in (*scores, *({"visible", "dropout_mask"} & names))
            )
            assert moved == expected * 2 * 3 * 256 * 192


def test_the_p_that_nobody_takes_is_freed(a100: Gpu) -> None:
    """At its peak backward holds P, what dropout made of it and its mask, dP, P ∘ dP."""
    problem = replace(PROBLEM, direction="both", dropout=0.1)
    kernels = catalog.plan(problem, a100, implementation="pytorch-math").kernels
    found = footprint(kernels)
    begun = [kernel.name for kernel in kernels].index("cast_P_dropped")
    assert found.lives["P_unused"] == (begun, begun)
    assert found.by_tensor["P_unused"] == 2 * 2 * 3 * 256 * 192


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
        (replace(PROBLEM, window=(9, 0)), "it has no window"),
        (Attention(1, 4, 64, 64, 64, kv_heads=2), "as many key/value heads"),
    ):
        with pytest.raises(Refused, match=message):
            catalog.plan(problem, a100, implementation="pytorch-math")
