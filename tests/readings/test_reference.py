"""The reference against cases worked by hand: it is the specification of all the others."""

import numpy as np
import pytest

from fasim.problem import Attention
from fasim.readings import numerics, reference


def test_two_keys_by_hand() -> None:
    problem = Attention(1, 1, 1, 2, 1)
    q, k = np.array([[[[1.0]]]], np.float32), np.array([[[[0.0], [1.0]]]], np.float32)
    v = np.array([[[[10.0], [20.0]]]], np.float32)
    o, lse = reference.attention(problem, q, k, v)
    weight = np.e / (1 + np.e)
    assert o[0, 0, 0, 0] == pytest.approx(10 * (1 - weight) + 20 * weight)
    assert lse[0, 0, 0] == pytest.approx(np.log(1 + np.e))


def test_the_mask_is_aligned_bottom_right() -> None:
    assert reference.visible(Attention(1, 1, 2, 3, 1, causal=True)).tolist() == [
        [True, True, False],
        [True, True, True],
    ]
    assert reference.visible(Attention(1, 1, 3, 2, 1, causal=True)).tolist() == [
        [False, False],
        [True, False],
        [True, True],
    ]
    assert reference.visible(Attention(1, 1, 2, 3, 1)).all()


def test_a_row_that_sees_nothing() -> None:
    problem = Attention(1, 1, 3, 2, 4, causal=True)
    ones = np.ones((1, 1, 3, 4), np.float32)
    o, lse = reference.attention(problem, ones, ones[:, :, :2], ones[:, :, :2])
    assert (o[0, 0, 0] == 0).all()
    assert lse[0, 0, 0] == -np.inf
    assert lse[0, 0, 1] == pytest.approx(4 * problem.scale)
    assert (
        reference.attention_in(problem, ones, ones[:, :, :2], ones[:, :, :2])[0, 0, 0] == 0
    ).all()


def test_grouped_heads_take_their_own_keys() -> None:
    problem = Attention(1, 4, 1, 1, 1, kv_heads=2)
    v = np.array([[[[1.0]], [[2.0]]]], np.float32)
    o, _ = reference.attention(problem, np.ones((1, 4, 1, 1), np.float32), v, v)
    assert o[0, :, 0, 0].tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("dtype", "size", "spacing"),
    [
        ("fp16", 1.0, 2**-10),
        ("bf16", 1.0, 2**-7),
        ("fp8", 1.0, 2**-3),
        ("fp32", 1.0, 2**-10),
        ("fp8", 2.0**-8, 2**-9),  # subnormal: the spacing no longer shrinks
        ("fp16", 2.0**-20, 2**-24),
    ],
)
def test_the_rounding_band_is_the_spacing_at_a_power_of_two(
    dtype: str, size: float, spacing: float
) -> None:
    problem = Attention(1, 1, 1, 1, 1, dtype=dtype)
    assert reference.rounding_band(problem, np.array([0.0, -size])) == spacing


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_slopes(causal: bool) -> None:
    """Central differences of sum(O ∘ dO), in float64."""
    problem = Attention(1, 4, 5, 4, 3, kv_heads=2, dtype="fp32", causal=causal)
    random = np.random.default_rng(0)
    shapes = (1, 4, 5, 3), (1, 2, 4, 3), (1, 2, 4, 3), (1, 4, 5, 3)
    q, k, v, do = (random.standard_normal(shape) for shape in shapes)
    inputs = [q, k, v]
    found = reference.gradients(problem, q, k, v, do)
    step = 1e-6
    for number, gradient in enumerate(found):
        slopes = np.zeros_like(gradient)
        for place in np.ndindex(gradient.shape):
            ends = []
            for sign in (1, -1):
                moved = [array.copy() for array in inputs]
                moved[number][place] += sign * step
                output, _ = reference.attention(problem, *moved)
                ends.append((output * do).sum())
            slopes[place] = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(gradient, slopes, atol=1e-8)


def test_gradients_in_fp32_are_those_of_float64_but_for_tf32() -> None:
    problem = Attention(1, 2, 40, 40, 16, kv_heads=1, dtype="fp32", direction="backward")
    inputs = numerics.random_inputs(problem)
    arguments = (problem, inputs["Q"], inputs["K"], inputs["V"], inputs["dO"])
    for exact, plain in zip(
        reference.gradients(*arguments), reference.gradients_in(*arguments), strict=True
    ):
        error = np.abs(plain - exact).max()
        assert 0 < error < 2**-7


def test_bands_of_gradients_do_not_vanish_where_the_gradients_do() -> None:
    """Of one key P is 1 and dS is 0: dQ and dK are 0, and what roundings move is not."""
    problem = Attention(1, 1, 3, 1, 8, direction="backward")
    inputs = numerics.random_inputs(problem)
    arguments = (problem, inputs["Q"], inputs["K"], inputs["V"], inputs["dO"])
    dq, dk, _ = reference.gradients(*arguments)
    assert np.abs(dq).max() < 1e-12
    assert np.abs(dk).max() < 1e-12
    assert all(2**-14 < band < 2**-6 for band in reference.gradient_bands(*arguments))
