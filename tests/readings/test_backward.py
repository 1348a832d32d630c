"""The backward chains: exact bytes, right gradients, and what their papers say of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from fasim.problem import Attention
from fasim.readings import numerics, reference
from fasim.readings.rounding import Array
from fasim.readings.traffic import Level, traffic
from fasim.schedules import (
    flash1_backward,
    flash2_backward,
    standard_backward,
    two_pass,
)
from fasim.schedules.gradients import STREAMING
from fasim.schedules.mapping import Mapping
from fasim.schedules.tiling import Tiling
from tests.readings import backward_forms as forms
from tests.readings.backward_forms import Counted, GemmTiles
from tests.readings.chains import Kernels, Tiles, gemm, problems, shape_of, tile_sizes
from tests.readings.closed_forms import Bytes, Shape

RULE_HEAD_DIMS = (8, 40, 64)


def buffered(*names: str, buffers: int = 1) -> Mapping:
    return Mapping(4, buffers=tuple((name, buffers) for name in names))


def build_flash2(problem: Attention, tiles: Tiles) -> Kernels:
    tiling = Tiling(tiles.tile_m, tiles.tile_n, descending=True)
    return flash2_backward.kernels(problem, tiling, buffered("Q", "K", "V", "dO"))


def build_padded_flash2(problem: Attention, tiles: Tiles) -> Kernels:
    tiling = Tiling(tiles.tile_m, tiles.tile_n)
    return flash2_backward.kernels(problem, tiling, buffered("Q", "K", "V", "dO"), head_dim=96)


def build_flash1(problem: Attention, tiles: Tiles) -> Kernels:
    tiling = Tiling(tiles.tile_m, tiles.tile_n)
    return flash1_backward.kernels(problem, tiling, buffered("Q", "K", "V", "O", "dO", "dQ"))


def build_two_pass(problem: Attention, tiles: Tiles) -> Kernels:
    tiling = Tiling(tiles.tile_m, tiles.tile_n)
    mapping = buffered("Q", "K", "V", "dO")
    return two_pass.kernels(problem, tiling, mapping, tiling, mapping)


def build_standard(problem: Attention, tiles: Tiles) -> Kernels:
    return standard_backward.kernels(problem, gemm(tiles), STREAMING, rows_per_block=4)


def gemm_tiles(tiles: Tiles) -> GemmTiles:
    return GemmTiles(tiles.tile_m, tiles.tile_n, tiles.k_step)


Build = Callable[[Attention, Tiles], Kernels]
ClosedForm = Callable[[Shape, Tiles], list[Counted]]
CHAINS: dict[str, tuple[Build, ClosedForm]] = {
    "flash1": (build_flash1, lambda s, t: forms.flash1_backward(s, t.tile_m, t.tile_n)),
    "flash2": (build_flash2, lambda s, t: forms.flash2_backward(s, t.tile_m, t.tile_n)),
    "flash2, padded head": (
        build_padded_flash2,
        lambda s, t: forms.flash2_backward(s, t.tile_m, t.tile_n, compiled_head_dim=96),
    ),
    "two-pass": (build_two_pass, lambda s, t: forms.two_pass(s, t.tile_m, t.tile_n)),
    "standard": (build_standard, lambda s, t: forms.standard_backward(s, gemm_tiles(t))),
}


def backward(problem: Attention) -> Attention:
    return replace(problem, direction="backward")


def moved(level: Level) -> Bytes:
    return {
        name: (access.read_bytes, access.write_bytes)
        for name, access in level.items()
        if access.read_bytes or access.write_bytes
    }


def reduced(level: Level) -> dict[str, int]:
    return {name: access.reduce_bytes for name, access in level.items() if access.reduce_bytes}


def nonzero(counted: Bytes) -> Bytes:
    return {name: both for name, both in counted.items() if any(both)}


@pytest.mark.parametrize("chain", CHAINS)
@given(problem=problems(), tiles=tile_sizes())
@settings(max_examples=100, deadline=None)
def test_traffic_numerics_and_closed_form_agree_byte_for_byte(
    chain: str, problem: Attention, tiles: Tiles
) -> None:
    build, closed_form = CHAINS[chain]
    problem = backward(problem)
    kernels = build(problem, tiles)
    predicted = traffic(kernels).kernels
    run = numerics.run(kernels, numerics.random_inputs(problem))
    expected = closed_form(shape_of(problem), tiles)
    assert [kernel.kernel for kernel in predicted] == [kernel.kernel for kernel in expected]
    for kernel, level, flops, closed in zip(
        predicted, run.kernels, run.tensor_flops, expected, strict=True
    ):
        assert moved(kernel.global_) == nonzero(closed.global_) == moved(level)
        assert reduced(kernel.global_) == closed.reduced == reduced(level)
        assert moved(kernel.compulsory) == nonzero(closed.compulsory)
        assert reduced(kernel.compulsory) == closed.compulsory_reduced
        assert kernel.flops.tensor == closed.executed_flops == flops
        assert kernel.flops.tensor_useful == closed.useful_flops


def assert_right(
    problem: Attention, kernels: Kernels, inputs: dict[str, Array], seed: int = 0
) -> dict[str, Array]:
    """The tolerance rule for dQ, dK and dV, each by its own yardstick."""
    tensors = numerics.run(kernels, inputs, seed).tensors
    arguments = (problem, inputs["Q"], inputs["K"], inputs["V"], inputs["dO"])
    exact, plain = reference.gradients(*arguments), reference.gradients_in(*arguments)
    bands = reference.gradient_bands(*arguments)
    for name, truth, yardstick, band in zip(("dQ", "dK", "dV"), exact, plain, bands, strict=True):
        allowed = 2 * np.abs(yardstick - truth).max() + band
        assert np.isfinite(tensors[name]).all(), name
        assert np.abs(tensors[name] - truth).max() <= allowed, name
    return tensors


@pytest.mark.parametrize("chain", CHAINS)
@given(problem=problems(("fp32", "fp16", "bf16"), RULE_HEAD_DIMS), tiles=tile_sizes())
@settings(max_examples=40, deadline=None)
def test_gradients_are_right_for_random_problems(
    chain: str, problem: Attention, tiles: Tiles
) -> None:
    problem = backward(problem)
    assert_right(problem, CHAINS[chain][0](problem, tiles), numerics.random_inputs(problem))
