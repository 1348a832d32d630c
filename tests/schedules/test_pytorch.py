"""Eager PyTorch's mappings: what its elementwise kernels and its softmax issue."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fasim.hardware import Gpu
from fasim.problem import Attention
from fasim.schedules import catalog
from fasim.schedules.implementations import pytorch

PROBLEM = Attention(2, 4, 1024, 1024, 64)


@pytest.mark.parametrize(("keys", "instructions"), [(1024, 38.3), (2048, 48.0)])
def test_softmax_divides_hidden_scores_the_long_way(keys: int, instructions: float) -> None:
    problem = replace(PROBLEM, seqlen_q=keys, seqlen_k=keys)
    causal = replace(problem, causal=True)
    hidden = (keys - 1) / (2 * keys)  # a row fewer keys each, from the last up
    plain, _ = pytorch.softmax_mapping(problem)
    masked, _ = pytorch.softmax_mapping(causal)
    assert plain.instructions_per_element == instructions
    assert masked.instructions_per_element == pytest.approx(instructions + 33 * hidden)
    assert pytorch.softmax_mapping(causal, backward=True) == (
        pytorch.softmax_mapping(problem, backward=True)
    )


@pytest.mark.parametrize(("head_dim", "warps"), [(16, 1), (64, 2), (128, 4)])
def test_one_launch_stacks_three_gradients_token_by_token(
    a100: Gpu, head_dim: int, warps: int
) -> None:
    problem = replace(PROBLEM, head_dim=head_dim, direction="backward")
    *_, stack = catalog.plan(problem, a100, implementation="pytorch").kernels
    assert (stack.name, stack.grid_shape, stack.mapping.warps) == (
        "stack_gradients",
        (4, 1024, 2),
        warps,
    )
    assert stack.mapping.instructions_per_element == 3 * 86


@pytest.mark.parametrize(
    ("columns", "element_bytes", "warps"),
    [(2048, 2, 4), (4096, 2, 8), (8192, 2, 16), (65536, 2, 16), (2048, 4, 8), (1030, 2, 2)],
)
def test_a_row_of_softmax_takes_half_the_threads_that_load_it(columns, element_bytes, warps):
    assert pytorch.softmax_warps(columns, element_bytes) == warps
