"""How bytes grow: the papers' laws, from the traffic reading."""

import math

import numpy as np
import pytest

from fasim.hardware import Gpu, load, with_overrides
from fasim.problem import Attention
from fasim.readings.traffic import Level, total, traffic
from fasim.schedules import catalog
from fasim.schedules.plan import Options
from tests.readings.chains import Tiles, build_flash1

LENGTHS = (1024, 2048, 4096, 8192, 16384)
# Shared memory of a block, over 16 ×, and Br × Bc of Algorithm 1 for d = 64 and fp16.
PAPER_TILES = {16: (32, 32), 32: (64, 64), 64: (64, 128), 128: (64, 256), 256: (64, 512)}


def bytes_of(level: Level) -> int:
    return total(level).total_bytes


def with_shared_memory(kib: int) -> Gpu:
    settings = {
        "shared_memory.max_per_block": f"{kib} KiB",
        "shared_memory.capacity": f"{max(kib + 1, 164)} KiB",
    }
    return with_overrides(load("a100"), settings).gpu


def log_slope(x: list[float], y: list[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


@pytest.mark.parametrize("head_dim", [64, 128])
def test_standard_grows_as_nd_and_n_squared(a100: Gpu, head_dim: int) -> None:
    """a·N·d + b·N² with a = b = 4 accesses of two bytes: exact, no remainder."""
    for n in LENGTHS:
        plan = catalog.plan(Attention(1, 1, n, n, head_dim), a100, "standard")
        assert bytes_of(traffic(plan.kernels).compulsory) == 8 * n * head_dim + 8 * n * n


@pytest.mark.parametrize("head_dim", [64, 128])
def test_standard_global_bytes_grow_the_same_way_with_tiles_read_again(
    a100: Gpu, head_dim: int
) -> None:
    # GEMM tiles of 128: Q and K are read N/128 times, V too; a whole head fits one tile of O.
    for n in LENGTHS:
        plan = catalog.plan(
            Attention(1, 1, n, n, head_dim), a100, "standard", options=Options((128, 128))
        )
        re_read = 3 * (n // 128) * n * head_dim
        assert bytes_of(traffic(plan.kernels).global_) == 2 * (re_read + n * head_dim + 4 * n * n)


@pytest.mark.parametrize("n", [16384, 65536])
def test_flash1_is_inverse_in_shared_memory(n: int) -> None:
    """Θ(N²d²/M): Dao et al. 2022, theorem 2."""
    problem = Attention(1, 1, n, n, 64)
    memory, moved = [], []
    for kib, tile in PAPER_TILES.items():
        plan = catalog.plan(problem, with_shared_memory(kib), "flash1")
        assert plan.tile == tile
        planned = bytes_of(traffic(plan.kernels).global_)
        direct = build_flash1(problem, Tiles(*tile))
        assert planned == bytes_of(traffic(direct).global_)
        memory.append(kib * 1024 / 2)
        moved.append(planned)
    assert memory[-1] == 16 * memory[0]
    assert log_slope(memory, moved) == pytest.approx(-1, abs=0.03)


def test_flash1_is_quadratic_in_length() -> None:
    gpu = with_shared_memory(64)
    lengths = [16384, 32768, 65536, 131072]
    moved = [
        bytes_of(traffic(catalog.plan(Attention(1, 1, n, n, 64), gpu, "flash1").kernels).global_)
        for n in lengths
    ]
    assert log_slope(lengths, moved) == pytest.approx(2, abs=0.03)


def test_flash2_is_quadratic_in_length_and_inverse_in_row_tile(a100: Gpu) -> None:
    """K and V are read once a row tile: 4·N²·d/tile_m bytes, whatever tile_n is."""
    d = 64
    for n in LENGTHS:
        for tile_m in (32, 64, 128):
            for tile_n in (32, 64):
                problem = Attention(1, 1, n, n, d)
                plan = catalog.plan(problem, a100, "flash2", options=Options((tile_m, tile_n)))
                once = 2 * 2 * n * d + 4 * n  # Q and O of two bytes, LSE of four
                expected = 4 * n * n * d // tile_m + once
                assert bytes_of(traffic(plan.kernels).global_) == expected


def test_causal_halves_flash_and_not_standard(a100: Gpu) -> None:
    def moved(schedule: str, causal: bool) -> int:
        problem = Attention(1, 1, 16384, 16384, 128, causal=causal)
        return bytes_of(traffic(catalog.plan(problem, a100, schedule).kernels).global_)

    assert moved("standard", True) == moved("standard", False)
    for schedule in ("flash1", "flash2"):
        assert math.isclose(moved(schedule, True) / moved(schedule, False), 0.5, abs_tol=0.02)
