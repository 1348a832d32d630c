"""Sliding windows: what they save, at any schedule that has them."""

from dataclasses import replace

import numpy as np
import pytest

from fasim.hardware import Gpu, load
from fasim.problem import Attention
from fasim.readings import numerics, reference
from fasim.readings.traffic import traffic
from fasim.schedules import catalog
from fasim.schedules.plan import Options, Refused
from fasim.schedules.record import cached_record
from fasim.simulator.trips import Trips, grid_trips
from fasim.verbs.predict import predict

HAVE_IT = (
    *("standard", "flash1", "flash2", "decode", "split_kv"),
    *("flash-attn-2", "pytorch-flash", "pytorch"),
)
HOPPER_ONLY = ("flash3", "flash-attn-3")


def named(name: str) -> dict[str, str]:
    return {"schedule" if name in catalog.SCHEDULES else "implementation": name}


def test_the_window_is_aligned_bottom_right() -> None:
    """The last query stands at the last key."""
    seen = reference.visible(Attention(1, 1, 3, 5, 1, window=(1, 0)))
    assert seen.astype(int).tolist() == [[0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]
    seen = reference.visible(Attention(1, 1, 3, 2, 1, window=(0, 1)))
    assert seen.astype(int).tolist() == [[1, 0], [1, 1], [0, 1]]


@pytest.mark.parametrize("name", [*HAVE_IT, *HOPPER_ONLY])
@pytest.mark.parametrize("window", [(20, 0), (0, 0), (-1, 30), (45, 7)])
def test_the_answer_is_right(name: str, window: tuple[int, int]) -> None:
    gpu = load("h100").gpu
    problem = Attention(1, 4, 130, 200, 64, kv_heads=2, window=window)
    kernels = catalog.plan(problem, gpu, **named(name)).kernels
    inputs = numerics.random_inputs(problem)
    q, k, v = inputs["Q"], inputs["K"], inputs["V"]
    exact, _ = reference.attention(problem, q, k, v)
    plain = reference.attention_in(problem, q, k, v)
    allowed = 2 * np.abs(plain - exact).max() + reference.rounding_band(problem, exact)
    run = numerics.run(kernels, inputs)
    assert np.abs(run.tensors["O"] - exact).max() <= allowed


@pytest.mark.parametrize(
    "name",
    ["cudnn", "triton", "flash-attn-0.1", "flash-attn-1", "megatron", "pytorch-math"],
)
def test_kernels_without_windows_refuse_them(name: str) -> None:
    with pytest.raises(Refused, match="window is 64,0; it has no window"):
        catalog.plan(Attention(1, 1, 512, 512, 64, window=(64, 0)), load("h100").gpu, **named(name))


def test_tiles_outside_are_skipped_and_both_edges_masked(a100: Gpu) -> None:
    """128 × 64 tiles, 255 keys to the left: rows 0 … 127 of a tile see 128 + 255 keys."""
    problem = Attention(1, 1, 4096, 4096, 128, window=(255, 0))
    (kernel,) = catalog.plan(problem, a100, "flash2", options=Options((128, 64))).kernels
    trips = grid_trips(cached_record(kernel), (0,))
    # 2 tiles on the diagonal, 2 at the left edge, 2 between; the first blocks meet key 0.
    assert trips.pattern == (Trips(0, 2), Trips(2, 2), *[Trips(2, 4)] * 30)
    read = traffic((kernel,)).global_["K"].read_bytes
    assert read == (2 + 4 + 30 * 6) * 64 * 128 * 2


def test_a_window_wider_than_the_problem_changes_nothing(a100: Gpu) -> None:
    problem = Attention(2, 4, 1024, 1024, 64)
    wide = replace(problem, window=(1023, 1023))
    for name in ("flash1", "flash2"):
        plain, masked = (
            predict(p, load("a100"), schedule=name, options=Options((64, 64)))
            for p in (problem, wide)
        )
        assert plain.traffic == masked.traffic
        assert plain.time_s == masked.time_s
    causal = replace(problem, causal=True)
    half = replace(problem, window=(1023, 0))
    plans = [catalog.plan(p, a100, "flash2").kernels for p in (causal, half)]
    assert traffic(plans[0]).global_ == traffic(plans[1]).global_


def test_a_narrower_window_takes_less_time() -> None:
    for direction in ("forward", "backward"):
        problem = Attention(1, 16, 8192, 8192, 128, causal=True, direction=direction)
        windows = [problem, *(replace(problem, window=(left, 0)) for left in (4096, 1024, 256))]
        times = [predict(p, load("a100"), schedule="flash2").time_s for p in windows]
        assert times == sorted(times, reverse=True)
        assert times[-1] < times[0] / 5


def test_standard_attention_saves_nothing(a100: Gpu) -> None:
    problem = Attention(1, 2, 512, 512, 64)
    plans = [
        catalog.plan(p, a100, "standard").kernels
        for p in (problem, replace(problem, window=(9, 9)))
    ]
    assert traffic(plans[0]).global_ == traffic(plans[1]).global_
    assert traffic(plans[0]).flops.tensor == traffic(plans[1]).flops.tensor


@pytest.mark.parametrize(
    ("head_dim", "tile"), [(64, (192, 128)), (96, (192, 128)), (192, (128, 96)), (256, (128, 64))]
)
def test_flash_attn_3_takes_tiles_of_its_own(head_dim: int, tile: tuple[int, int]) -> None:
    # hopper/tile_size.h, is_local.
    problem = Attention(2, 8, 4096, 4096, head_dim, window=(512, 0))
    plan = catalog.plan(problem, load("h100").gpu, implementation="flash-attn-3")
    assert plan.tile == tile
    assert plan.kernels[0].mapping.block_order == "longest-first"


def test_flash_attn_2_does_not_fold_heads_under_a_window(a100: Gpu) -> None:
    problem = Attention(64, 32, 1, 2048, 128, kv_heads=8)
    for window, group in ((None, 4), ((512, 0), 1)):
        plan = catalog.plan(replace(problem, window=window), a100, implementation="flash-attn-2")
        assert plan.kernels[0].group == group
