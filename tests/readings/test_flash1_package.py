"""FlashAttention-1 as its package has it: bytes by the formulas of its code, right values."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasim.problem import DTYPE_BYTES, Attention
from fasim.readings import numerics, reference
from fasim.readings.traffic import Level, traffic
from fasim.schedules import flash1_package
from fasim.schedules.language import Kernel
from fasim.schedules.mapping import Mapping
from fasim.schedules.tiling import Tiling
from tests.readings.closed_forms import Bytes

MAPPING = Mapping(4, buffers=(("Q", 1), ("dO", 1), ("K", 1), ("V", 1)))


@dataclass(frozen=True)
class Case:
    problem: Attention
    tile_n: int
    splits: int

    @property
    def kernel(self) -> Kernel:
        tiling = Tiling(16, self.tile_n, num_splits=self.splits)
        if self.problem.direction == "forward":
            grid = ("batch", "head", "split")
            return flash1_package.forward_kernel(self.problem, tiling, MAPPING, grid)
        return flash1_package.backward_kernel(self.problem, tiling, MAPPING, ("batch", "head"))


@st.composite
def cases(draw: st.DrawFn, direction: str) -> Case:
    causal = draw(st.booleans())
    heads, queries = draw(st.integers(1, 3)), draw(st.integers(1, 130))
    keys = queries if causal else draw(st.integers(1, 130))
    head_dim = draw(st.sampled_from((8, 40, 64)))
    dtype = draw(st.sampled_from(("fp16", "bf16", "fp32")))
    problem = Attention(
        draw(st.integers(1, 2)),
        heads,
        queries,
        keys,
        head_dim,
        causal=causal,
        dtype=dtype,
        dropout=draw(st.sampled_from((0.0, 0.1, 0.5))),
    )
    tile_n, splits = draw(st.sampled_from((16, 32, 48, 64))), draw(st.integers(1, 4))
    return Case(replace(problem, direction=direction), tile_n, splits)


def steps_of_rows(case: Case) -> list[tuple[int, list[int]]]:
    """(rows of a tile, key tiles that it visits), of one head; the diagonal's is the last."""
    problem = case.problem
    key_tiles = list(range(-(-problem.seqlen_k // case.tile_n)))
    tiles = []
    for start in range(0, problem.seqlen_q, 16):
        rows = min(16, problem.seqlen_q - start)
        last_row = start + rows - 1
        seen = key_tiles[: last_row // case.tile_n + 1] if problem.causal else key_tiles
        tiles.append((rows, seen))
    return tiles


def key_rows(case: Case, splits: int) -> int:
    """Rows of K that the blocks of a head read: each its own rows' tiles, once."""
    problem, total = case.problem, 0
    tiles = steps_of_rows(case)
    for own in range(splits):
        for tile in {n for _, seen in tiles[own::splits] for n in seen}:
            total += min(case.tile_n, problem.seqlen_k - tile * case.tile_n)
    return total


def moved(level: Level) -> Bytes:
    return {
        name: (access.read_bytes, access.write_bytes)
        for name, access in level.items()
        if access.total_bytes
    }


def assert_moves(case: Case, by_row: Bytes, keys_read: int, outputs: Bytes) -> None:
    """Bytes a head, but for K and V, which are counted in rows read."""
    problem = case.problem
    heads, e = problem.batch * problem.heads, DTYPE_BYTES[problem.dtype]
    each_key = keys_read * problem.head_dim * e
    expected = by_row | {"K": (each_key, 0), "V": (each_key, 0)} | outputs
    expected = {n: (r * heads, w * heads) for n, (r, w) in expected.items() if r or w}
    (exact,) = traffic((case.kernel,)).kernels
    run = numerics.run((case.kernel,), numerics.random_inputs(problem))
    assert moved(exact.global_) == expected == moved(run.kernels[0])
    assert exact.flops.tensor == run.tensor_flops[0]
    for name, access in exact.compulsory.items():
        assert access.total_bytes <= exact.global_[name].total_bytes


@given(case=cases("forward"))
@settings(max_examples=100, deadline=None)
def test_forward_moves_what_its_code_does(case: Case) -> None:
    """A row: Q every step; O_tmp read but in the first, written but in the last; one LSE."""
    d, e = case.problem.head_dim, DTYPE_BYTES[case.problem.dtype]
    tiles = steps_of_rows(case)
    visits = sum(rows * len(seen) for rows, seen in tiles)
    again = sum(rows * (len(seen) - 1) for rows, seen in tiles)
    by_row = {
        "Q": (visits * d * e, 0),
        "O_tmp": (again * d * 4, again * d * 4),
        "O": (0, case.problem.seqlen_q * d * e),
        "LSE": (again * 4, visits * 4),
    }
    assert_moves(case, by_row, key_rows(case, case.splits), {})


@given(case=cases("backward"))
@settings(max_examples=60, deadline=None)
def test_sequential_backward_moves_what_its_code_does(case: Case) -> None:
    """A row: Q, dO, LSE every step; O in the first; dQ_tmp as forward's O_tmp."""
    problem = case.problem
    d, e = problem.head_dim, DTYPE_BYTES[problem.dtype]
    tiles = steps_of_rows(case)
    visits = sum(rows * len(seen) for rows, seen in tiles)
    again = sum(rows * (len(seen) - 1) for rows, seen in tiles)
    once = problem.seqlen_q * d * e
    by_row = {
        "Q": (visits * d * e, 0),
        "dO": (visits * d * e, 0),
        "O": (once, 0),
        "LSE": (visits * 4, 0),
        "delta": (again * 4, problem.seqlen_q * 4),
        "dQ_tmp": (again * d * 4, again * d * 4),
        "dQ": (0, once),
    }
    gradient = problem.seqlen_k * d * e
    assert_moves(case, by_row, key_rows(case, 1), {"dK": (0, gradient), "dV": (0, gradient)})


@pytest.mark.parametrize("causal", [False, True])
def test_a_head_of_4096_rows(causal: bool) -> None:
    """16 key tiles of 256, d = 64: O_tmp comes and goes 15 times, 7.5 times under the mask."""
    problem = Attention(1, 1, 4096, 4096, 64, causal=causal)
    (exact,) = traffic((Case(problem, 256, 4).kernel,)).kernels
    mib = 2**20
    times = 7.5 if causal else 15
    assert moved(exact.global_)["O_tmp"] == (times * mib, times * mib)
    # All but the first key tile's rows come back under the mask.
    assert exact.compulsory["O_tmp"].write_bytes == (mib * 15 // 16 if causal else mib)
    assert moved(exact.global_)["K"] == (4 * mib // 2, 0)


@given(case=cases("forward"))
@settings(max_examples=40, deadline=None)
def test_forward_is_right(case: Case) -> None:
    problem = case.problem
    inputs = numerics.random_inputs(problem)
    q, k, v = (inputs[name] for name in "QKV")
    tensors = numerics.run((case.kernel,), inputs).tensors
    exact, lse = reference.attention(problem, q, k, v)
    size = max(1.0, np.abs(exact).max())  # what rounding loses goes with it
    assert np.abs(tensors["O"] - exact).max() < size * 2 ** (-6 if problem.dtype == "bf16" else -8)
    assert np.abs(tensors["LSE"] - lse).max() < 2**-8


@given(case=cases("backward"))
@settings(max_examples=40, deadline=None)
def test_sequential_backward_is_right(case: Case) -> None:
    problem, inputs = case.problem, numerics.random_inputs(case.problem)
    arguments = (problem, *(inputs[name] for name in ("Q", "K", "V", "dO")))
    exact, plain = reference.gradients(*arguments), reference.gradients_in(*arguments)
    bands = reference.gradient_bands(*arguments)
    tensors = numerics.run((case.kernel,), inputs).tensors
    for name, truth, yardstick, band in zip(("dQ", "dK", "dV"), exact, plain, bands, strict=True):
        allowed = 2 * np.abs(yardstick - truth).max() + band
        assert np.abs(tensors[name] - truth).max() <= allowed, name
