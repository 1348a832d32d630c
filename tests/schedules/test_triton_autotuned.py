"""An implementation that tries several tiles and keeps the fastest."""

import pytest

import fasim
from fasim.schedules import catalog
from fasim.schedules.implementations.triton_autotuned import TILES
from fasim.schedules.plan import Options

H100 = fasim.load("h100")
PROBLEM = fasim.Attention(4, 16, 4096, 4096, 128)


def plans(problem=PROBLEM, options=None):
    return catalog.plans(problem, H100.gpu, None, "triton-autotuned", options)


def test_every_tile_is_tried_and_the_first_is_the_plan():
    tried = plans()
    assert [each.tile for each in tried] == list(TILES)
    assert (
        tried[0].kernels[0].tiles
        == catalog.plan(PROBLEM, H100.gpu, None, "triton-autotuned").kernels[0].tiles
    )


def test_the_fastest_is_predicted_and_said():
    best = fasim.predict(PROBLEM, H100, implementation="triton-autotuned")
    times = {
        tile: fasim.predict(
            PROBLEM, H100, implementation="triton-autotuned", options=Options(tile=tile)
        ).time_s
        for tile in TILES
    }
    assert best.tile in TILES
    assert best.time_s <= 1.01 * min(times.values())
    assert any("fastest, as predicted, of the 4" in line for line in best.assumptions)


@pytest.mark.parametrize(("head_dim", "widest"), [(16, 32), (32, 32), (64, 64)])
def test_no_more_keys_than_the_head_is_wide(head_dim, widest):
    tried = plans(fasim.Attention(1, 4, 512, 512, head_dim))
    assert max(each.tile[1] for each in tried) == widest


def test_a_tile_that_is_asked_for_and_backward_are_one_plan():
    assert len(plans(options=Options(tile=(128, 64)))) == 1
    backward = fasim.Attention(4, 16, 4096, 4096, 128, direction="backward")
    assert len(plans(backward)) == 1


def test_others_have_one_plan():
    assert len(catalog.plans(PROBLEM, H100.gpu, "flash2")) == 1
    assert len(catalog.plans(PROBLEM, H100.gpu, None, "triton")) == 1
