"""Right answers: every chain within the tolerance rule, whatever the shape, dtype or order."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from fasim.problem import DTYPE_BYTES, Attention
from fasim.readings import numerics, reference
from fasim.readings.rounding import Array
from fasim.readings.traffic import traffic
from fasim.schedules.mapping import Mapping
from tests.readings.chains import CHAINS, Kernels, Tiles, problems, tile_sizes

# The rule compares maxima over many outputs; of one or two, plain attention may be lucky.
RULE_HEAD_DIMS = (8, 40, 64)
SMALL_TILES = Tiles(32, 48)
# Eager PyTorch takes no fp8.
CHAINS_AND_DTYPES = [
    (chain, dtype)
    for chain in CHAINS
    for dtype in DTYPE_BYTES
    if (chain, dtype) != ("pytorch", "fp8")
]


def built(chain: str, problem: Attention, tiles: Tiles = SMALL_TILES) -> Kernels:
    return CHAINS[chain][0](problem, tiles)


def assert_right(
    problem: Attention, kernels: Kernels, inputs: dict[str, Array]
) -> dict[str, Array]:
    """The tolerance rule: error ≤ 2 × that of plain attention in the dtype + a rounding band."""
    tensors = numerics.run(kernels, inputs).tensors
    q, k, v = inputs["Q"], inputs["K"], inputs["V"]
    exact, lse = reference.attention(problem, q, k, v)
    plain = reference.attention_in(problem, q, k, v)
    allowed = 2 * np.abs(plain - exact).max() + reference.rounding_band(problem, exact)
    assert np.isfinite(tensors["O"]).all()
    assert np.abs(tensors["O"] - exact).max() <= allowed
    if "LSE" in tensors:
        seen = np.isfinite(lse)
        np.testing.assert_array_equal(tensors["LSE"][~seen], -np.inf)
        # S in fp32 from operands of at most 11 bits: LSE errs by what rounding S does.
        scores = np.abs(lse[seen]).max(initial=1)
        np.testing.assert_allclose(tensors["LSE"][seen], lse[seen], atol=2e-3 * scores)
    return tensors


@pytest.mark.parametrize(("chain", "dtype"), CHAINS_AND_DTYPES)
def test_every_chain_is_right_in_every_dtype(chain: str, dtype: str) -> None:
    problem = Attention(1, 2, 100, 130, 64, dtype=dtype)
    assert_right(problem, built(chain, problem), numerics.random_inputs(problem))


@pytest.mark.parametrize("chain", CHAINS)
@given(
    problem=problems(("fp32", "fp16", "bf16"), RULE_HEAD_DIMS, dropout=True, windows=True),
    tiles=tile_sizes(),
)
@settings(max_examples=40, deadline=None)
def test_every_chain_is_right_for_random_problems(
    chain: str, problem: Attention, tiles: Tiles
) -> None:
    assert_right(problem, built(chain, problem, tiles), numerics.random_inputs(problem))


@pytest.mark.parametrize(("chain", "dtype"), CHAINS_AND_DTYPES)
@pytest.mark.parametrize("causal", [False, True])
def test_large_scores_overflow_nothing(chain: str, dtype: str, causal: bool) -> None:
    problem = Attention(1, 1, 70, 70, 64, dtype=dtype, causal=causal)
    inputs = numerics.random_inputs(problem, size=83.0)
    scores = inputs["Q"] @ inputs["K"].swapaxes(-1, -2) * problem.scale
    assert np.abs(scores).max() == pytest.approx(30_000, rel=0.1)
    assert_right(problem, built(chain, problem), inputs)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize(
    "problem",
    [
        Attention(1, 1, 1, 200, 64),
        Attention(1, 1, 1, 200, 64, causal=True),
        Attention(1, 1, 200, 1, 64),
        Attention(1, 1, 1, 1, 1),
        Attention(1, 1, 33, 31, 40, causal=True),
        Attention(1, 8, 64, 64, 32, kv_heads=1),
        Attention(2, 6, 50, 64, 32, kv_heads=2, causal=True),
    ],
    ids=["one row", "one row, causal", "one key", "one element", "ragged", "MQA", "GQA"],
)
def test_edges(chain: str, problem: Attention) -> None:
    assert_right(problem, built(chain, problem), numerics.random_inputs(problem))


@pytest.mark.parametrize("chain", CHAINS)
def test_a_row_that_sees_nothing_gives_zero_and_minus_infinity(chain: str) -> None:
    problem = Attention(1, 2, 150, 50, 32, causal=True)
    tensors = assert_right(problem, built(chain, problem), numerics.random_inputs(problem))
    assert (tensors["O"][:, :, :100] == 0).all()
    assert (tensors["O"][:, :, 100:] != 0).any()
    if "LSE" in tensors:
        assert (tensors["LSE"][:, :, :100] == -np.inf).all()


def test_one_query_head_of_a_group_equals_attention_with_keys_repeated() -> None:
    grouped = Attention(1, 4, 40, 40, 32, kv_heads=2)
    inputs = numerics.random_inputs(grouped)
    repeated = {name: np.repeat(inputs[name], 2, axis=1) for name in ("K", "V")}
    for chain in CHAINS:
        shared = numerics.run(built(chain, grouped), inputs).tensors["O"]
        own = replace(grouped, kv_heads=4)
        apart = numerics.run(built(chain, own), {**inputs, **repeated}).tensors["O"]
        np.testing.assert_array_equal(shared, apart)


@pytest.mark.parametrize("chain", CHAINS)
def test_blocks_in_another_order_give_the_same_bits(chain: str) -> None:
    problem = Attention(2, 4, 100, 90, 32, kv_heads=2, causal=True)
    inputs = numerics.random_inputs(problem)
    one, other = (numerics.run(built(chain, problem), inputs, seed) for seed in (1, 2))
    assert one.kernels == other.kernels
    for name, values in one.tensors.items():
        np.testing.assert_array_equal(values, other.tensors[name], err_msg=name)


@pytest.mark.parametrize("chain", CHAINS)
def test_a_mapping_moves_no_byte_and_no_bit(chain: str) -> None:
    problem = Attention(1, 4, 100, 90, 32, kv_heads=2, causal=True)
    inputs = numerics.random_inputs(problem)
    kernels = built(chain, problem)
    buffers = tuple((name, 3) for name in ("Q", "K", "V", "O", "P", "Q_copy", "K_copy", "V_copy"))
    mappings = (
        Mapping(8, "wgmma", "tma", buffers, operands_in_registers=("S", "O")),
        Mapping(2, "mma.sync", "cp.async", buffers, wait_before=(("V", "S"), ("K", "O"))),
        Mapping(1, "none", "registers", registers_per_thread=255, instructions_per_element=9.0),
        Mapping(16, warp_grid=(4, 4), block_order="longest-first"),
    )
    before, bytes_before = numerics.run(kernels, inputs), traffic(kernels)
    for mapping in mappings:
        mapped = tuple(replace(kernel, mapping=mapping) for kernel in kernels)
        assert traffic(mapped) == bytes_before
        after = numerics.run(mapped, inputs)
        assert after.kernels == before.kernels
        for name, values in before.tensors.items():
            np.testing.assert_array_equal(values, after.tensors[name], err_msg=name)


def test_fp32_operands_of_a_product_are_taken_as_tf32() -> None:
    problem = Attention(1, 1, 64, 64, 64, dtype="fp32")
    inputs = numerics.random_inputs(problem)
    exact, _ = reference.attention(problem, inputs["Q"], inputs["K"], inputs["V"])
    error = np.abs(numerics.run(built("flash2", problem), inputs).tensors["O"] - exact).max()
    assert 1e-5 < error < 1e-2  # about 2^-11, far above fp32's 2^-24


def test_inputs_are_left_as_they_were() -> None:
    problem = Attention(1, 1, 32, 32, 16, dtype="fp32")
    inputs = numerics.random_inputs(problem)
    inputs["O"] = np.ones((1, 1, 32, 16), np.float32)
    kept = {name: values.copy() for name, values in inputs.items()}
    numerics.run(built("flash2", problem), inputs)
    for name, values in kept.items():
        np.testing.assert_array_equal(inputs[name], values)


def test_an_input_of_the_wrong_shape_is_refused() -> None:
    problem = Attention(1, 2, 32, 32, 16, kv_heads=1)
    inputs = numerics.random_inputs(problem)
    inputs["K"] = np.repeat(inputs["K"], 2, axis=1)
    with pytest.raises(ValueError, match=r"K has shape \(1, 2, 32, 16\); it must be \(1, 1, 32"):
        numerics.run(built("flash2", problem), inputs)
