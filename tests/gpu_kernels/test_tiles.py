"""Tiles come from the schedules' tables, and their plans fit every architecture."""

from __future__ import annotations

import pytest

from fasim.hardware import load
from fasim.problem import Attention
from fasim.schedules import catalog
from fasim.schedules.implementations import gpu_kernels as table
from fasim.schedules.plan import Plan
from fasim.verbs.kernels.validate_kernels import GPUS
from gpu_kernels import tiles


def planned(arch: str, head_dim: int, direction: str) -> Plan:
    problem = Attention(1, 1, 512, 512, head_dim, direction=direction)
    return catalog.plan(problem, load(GPUS[arch]).gpu, implementation="gpu-kernels")


@pytest.mark.parametrize("arch", GPUS)
@pytest.mark.parametrize("head_dim", tiles.HEAD_DIMS)
def test_a_launch_and_a_plan_take_the_same_tiles(arch: str, head_dim: int) -> None:
    (forward,) = planned(arch, head_dim, "forward").kernels
    pick = tiles.forward(arch, head_dim)
    assert (forward.tiles["q"], forward.tiles["k"]) == (pick.tile_m, pick.tile_n)
    assert forward.mapping.warps == pick.warps
    backward = {kernel.name: kernel for kernel in planned(arch, head_dim, "backward").kernels}
    for name, pick in (
        ("key_value_pass", tiles.keys(arch, head_dim)),
        ("query_pass", tiles.queries(arch, head_dim)),
    ):
        kernel = backward[name]
        assert (kernel.tiles["q"], kernel.tiles["k"]) == (pick.tile_m, pick.tile_n)
        assert kernel.mapping.warps == pick.warps


def test_an_architecture_without_tiles_takes_those_of_the_smallest_shared_memory() -> None:
    assert table.picks("sm_86", 128) == table.picks("sm_120", 128) == table.picks("sm_89", 128)
    assert table.picks("sm_90", 128) != table.picks("sm_89", 128)


def test_a_buffer_fewer_than_stages_without_wgmma() -> None:
    (ampere,) = planned("sm_80", 64, "forward").kernels
    (hopper,) = planned("sm_90", 64, "forward").kernels
    assert dict(ampere.mapping.buffers) == {"Q": 1, "K": 2, "V": 2}
    assert dict(hopper.mapping.buffers) == {"Q": 1, "K": 3, "V": 3}


def test_a_gemm_as_wide_as_a_head() -> None:
    assert tiles.gemm("sm_80", 64, "fp16", head_wide=True).tile_n == 64
    assert tiles.gemm("sm_80", 16, "fp16", head_wide=True).tile_n == 32
    assert tiles.gemm("sm_80", 128, "fp16", head_wide=False, tile=(64, 32)).tile_n == 32
    assert tiles.gemm("sm_80", 64, "fp16", head_wide=False).tile_k == 32
    assert tiles.gemm("sm_90", 64, "fp16", head_wide=False).tile_k == 64


@pytest.mark.parametrize("arch", GPUS)
@pytest.mark.parametrize("head_dim", tiles.HEAD_DIMS)
def test_products_are_planned_as_they_are_launched(arch: str, head_dim: int) -> None:
    problem = Attention(1, 1, 512, 512, head_dim, direction="both")
    gpu = load(GPUS[arch]).gpu
    chain = catalog.plan(problem, gpu, implementation="gpu-kernels-standard").kernels
    products = [kernel for kernel in chain if kernel.mapping.matrix_unit != "none"]
    assert len(products) == 6
    for kernel in products:
        rows, columns = kernel.grid[:2]
        (depth,) = {"q", "k", "d"} - {rows, columns}
        pick = tiles.gemm(arch, head_dim, "fp16", head_wide=columns == "d")
        sides = tuple(kernel.tiles[axis] for axis in (rows, columns, depth))
        assert sides == (pick.tile_m, pick.tile_n, pick.tile_k)
        assert kernel.mapping.warps == pick.warps


def test_rows_are_padded_to_a_power_of_two() -> None:
    assert (tiles.rows(1).tile_n, tiles.rows(1000).tile_n, tiles.rows(4096).tile_n) == (
        1,
        1024,
        4096,
    )
    assert (tiles.rows(1024).tile_m, tiles.rows(1025).tile_m) == (4, 1)
