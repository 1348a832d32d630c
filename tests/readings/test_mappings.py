"""A mapping changes time only: flash2 and flash3 at equal tiles move the same bytes and bits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasim.hardware import load
from fasim.problem import Attention
from fasim.readings import numerics, reference
from fasim.readings.traffic import traffic
from fasim.schedules import catalog
from fasim.schedules.plan import Options
from tests.readings.chains import problems

HOPPER = load("h100").gpu


def small_tiles() -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.sampled_from((64, 128, 192)), st.sampled_from((16, 48, 128)))


@given(
    problem=problems(dtypes=("fp16", "bf16"), head_dims=(8, 40, 64), dropout=True, windows=True),
    tile=small_tiles(),
)
def test_equal_tiles_give_equal_bytes_and_bits(problem: Attention, tile: tuple[int, int]) -> None:
    two, three = (
        catalog.plan(problem, HOPPER, name, options=Options(tile)).kernels
        for name in ("flash2", "flash3")
    )
    assert traffic(two).global_ == traffic(three).global_
    assert traffic(two).compulsory == traffic(three).compulsory
    inputs = numerics.random_inputs(problem)
    first, second = numerics.run(two, inputs), numerics.run(three, inputs)
    assert first.kernels == second.kernels
    for name in ("O", "LSE"):
        assert first.tensors[name].tobytes() == second.tensors[name].tobytes()


@pytest.mark.parametrize("name", ["flash-attn-3", "cudnn"])
def test_sharing_reads_and_order_change_no_exact_byte(name: str) -> None:
    """Tiles of 128 rows of Q, whatever those of K: bytes of every block's own reads."""
    for causal in (False, True):
        problem = Attention(2, 4, 1024, 1024, 128, kv_heads=2, causal=causal)
        kernels = catalog.plan(problem, HOPPER, implementation=name).kernels
        tile = (kernels[0].tiles["q"], kernels[0].tiles["k"])
        plain = catalog.plan(problem, HOPPER, "flash2", options=Options(tile)).kernels
        assert traffic(kernels).global_ == traffic(plain).global_


def test_one_byte_inputs_give_a_two_byte_output() -> None:
    problem = Attention(1, 2, 200, 300, 64, dtype="fp8")
    kernels = catalog.plan(problem, HOPPER, "flash3").kernels
    moved = traffic(kernels).global_
    assert moved["O"].write_bytes == 2 * 200 * 64 * 2
    assert moved["Q"].read_bytes == 2 * 200 * 64
    inputs = numerics.random_inputs(problem)
    q, k, v = inputs["Q"], inputs["K"], inputs["V"]
    stored = numerics.run(kernels, inputs).tensors["O"]
    exact, _ = reference.attention(problem, q, k, v)
    plain = reference.attention_in(problem, q, k, v)
    assert np.abs(stored - exact).max() <= np.abs(plain - exact).max() + 2**-5
    # More than an FP8 output could tell apart.
    assert len(np.unique(stored)) > 256
