import pytest

from fasim.hardware import load
from fasim.problem import Attention
from fasim.schedules.catalog import plan
from fasim.schedules.plan import Options
from fasim.schedules.record import record
from fasim.simulator.lowering import main_loop
from fasim.simulator.trips import Trips, grid_trips


def trips(schedule, problem, tile):
    (kernel,) = plan(problem, load("h100").gpu, schedule, options=Options(tile)).kernels
    recorded = record(kernel)
    return grid_trips(recorded, main_loop(recorded))


def by_counting(problem, tile_m, tile_n):
    """(unmasked, masked) tiles of each row tile, score by score."""
    offset = problem.seqlen_k - problem.seqlen_q
    found = []
    for m in range(0, problem.seqlen_q, tile_m):
        rows = range(m, min(m + tile_m, problem.seqlen_q))
        plain = masked = 0
        for n in range(0, problem.seqlen_k, tile_n):
            keys = range(n, min(n + tile_n, problem.seqlen_k))
            seen = [key <= row + offset for row in rows for key in keys]
            plain += all(seen)
            masked += any(seen) and not all(seen)
        found.append(Trips(plain, masked))
    return tuple(found)


@pytest.mark.parametrize("seqlens", [(256, 256), (200, 333), (333, 200), (64, 500), (500, 64)])
@pytest.mark.parametrize("tile", [(64, 32), (32, 64), (128, 128)])
def test_causal_blocks_visit_what_they_see(seqlens, tile):
    problem = Attention(2, 3, *seqlens, 64, causal=True)
    found = trips("flash2", problem, tile)
    assert found.pattern == by_counting(problem, *tile)
    assert found.repeats == 6


def test_without_a_mask_all_blocks_are_alike():
    found = trips("flash2", Attention(2, 3, 200, 333, 64), (64, 32))
    assert (found.pattern, found.repeats) == ((Trips(11),), 6 * 4)
    assert found.mean == 11


@pytest.mark.parametrize("causal", [False, True])
def test_nested_loops_add_up_their_steps(causal):
    """FlashAttention-1: a block a head, over all tiles of K and, for each, those of Q."""
    problem = Attention(2, 3, 200, 200, 64, causal=causal)
    found = trips("flash1", problem, (64, 32))
    assert found.repeats == 6
    (block,) = found.pattern
    if causal:
        rows = by_counting(problem, 64, 32)
        assert block.total == sum(row.total for row in rows)
    else:
        assert block == Trips(4 * 7)
