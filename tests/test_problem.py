"""Problems and scenarios: what they say of themselves, and what is refused in one line."""

import math
from typing import Any

import pytest

from fasim.problem import Attention, ProblemError, Scenario


def test_keys_have_as_many_heads_as_queries_unless_told() -> None:
    assert Attention(2, 8, 64, 128, 64).kv_heads == 8
    assert Attention(2, 8, 64, 128, 64).group == 1
    assert Attention(2, 8, 64, 128, 64, kv_heads=2).group == 4


def test_scale_and_element_size() -> None:
    problem = Attention(1, 1, 1, 1, 64, dtype="fp8")
    assert math.isclose(problem.scale, 1 / 8)
    assert problem.element_bytes == 1


@pytest.mark.parametrize(("direction", "matmuls"), [("forward", 2), ("backward", 5), ("both", 7)])
def test_nominal_flops_are_those_of_the_papers(direction: str, matmuls: int) -> None:
    shape = (4, 32, 4096, 2048, 128)
    products = 2 * 4 * 32 * 4096 * 2048 * 128
    assert Attention(*shape, direction=direction).nominal_flops == matmuls * products
    causal = Attention(*shape, direction=direction, causal=True)
    assert causal.nominal_flops == matmuls * products // 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"batch": 0}, "batch is 0; it must be a whole number of 1 or more"),
        ({"heads": -4}, "heads is -4; it must be a whole number of 1 or more"),
        ({"kv_heads": -1}, "kv_heads is -1; it must be a whole number of 1 or more"),
        ({"seqlen_q": 0}, "seqlen_q is 0; it must be a whole number of 1 or more"),
        ({"seqlen_k": 1.5}, "seqlen_k is 1.5; it must be a whole number of 1 or more"),
        ({"seqlen_k": True}, "seqlen_k is True; it must be a whole number of 1 or more"),
        ({"head_dim": "64"}, "head_dim is '64'; it must be a whole number of 1 or more"),
        (
            {"kv_heads": 3},
            "heads is 8 and kv_heads 3; kv_heads must divide heads (grouped-query attention)",
        ),
        (
            {"kv_heads": 16},
            "heads is 8 and kv_heads 16; kv_heads must divide heads (grouped-query attention)",
        ),
        ({"dtype": "int4"}, "dtype is 'int4'; choose from fp32, bf16, fp16, fp8"),
        (
            {"window": (64, -2)},
            "window is 64,-2; it must be keys to the left and to the right, -1 for all of them",
        ),
        ({"dropout": 1.0}, "dropout is 1.0; it must be a probability of 0 or more and below 1"),
        ({"dropout": -0.1}, "dropout is -0.1; it must be a probability of 0 or more and below 1"),
        ({"direction": "up"}, "direction is 'up'; choose from forward, backward, both"),
    ],
)
def test_impossible_problems_are_refused_in_one_line(
    fault: dict[str, object], message: str
) -> None:
    sound = {"batch": 1, "heads": 8, "seqlen_q": 64, "seqlen_k": 64, "head_dim": 64}
    with pytest.raises(ProblemError) as refusal:
        Attention(**{**sound, **fault})
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"launch": "lunch"}, "launch is 'lunch'; choose from stream, graph, kernel"),
        ({"l2": "hot"}, "l2 is 'hot'; choose from warm, cold"),
        *(
            (
                {"run_length": wrong},
                f"run_length is {wrong!r}; choose from short, sustained, "
                "or a number of seconds above 0",
            )
            for wrong in ("1", 0, -1e-3, math.inf, math.nan, True, None)
        ),
    ],
)
def test_impossible_scenarios_are_refused(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemError) as refusal:
        Scenario(**fault)
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("causal", "window", "settled"),
    [
        (False, (-1, -1), (False, None)),
        (False, (-1, 0), (True, None)),
        (True, (-1, 64), (True, None)),
        (True, (64, 64), (False, (64, 0))),
        (False, (-1, 64), (False, (-1, 64))),
        (False, (64, -1), (False, (64, -1))),
        (True, None, (True, None)),
    ],
)
def test_a_mask_is_said_in_one_way(
    causal: bool, window: tuple[int, int] | None, settled: tuple[bool, tuple[int, int] | None]
) -> None:
    problem = Attention(1, 1, 100, 100, 64, causal=causal, window=window)
    assert (problem.causal, problem.window) == settled
    assert problem.masked == (settled != (False, None))


def test_a_window_counts_the_pairs_it_leaves() -> None:
    one = Attention(1, 1, 4, 6, 64, window=(1, 2))
    # Own keys are 2, 3, 4, 5: from one before to two after, within 0 … 5.
    assert one.visible_pairs == 4 + 4 + 3 + 2
    assert one.nominal_flops == 4 * 64 * one.visible_pairs
    assert Attention(1, 1, 4, 6, 64, causal=True).nominal_flops == 4 * 64 * 24 // 2


def test_problems_and_scenarios_are_values() -> None:
    assert hash(Attention(1, 2, 3, 4, 5)) == hash(Attention(1, 2, 3, 4, 5, kv_heads=2))
    assert Scenario() == Scenario("stream", "warm", "sustained")
    assert len({Scenario(run_length=length) for length in ("short", 1e-3, 5e-3, "sustained")}) == 4
