"""Longest-first order: sections of heads, their heaviest blocks first."""

from dataclasses import replace

import pytest

from fasim.problem import Attention
from fasim.schedules import flash3
from fasim.schedules.language import Kernel
from fasim.schedules.record import record
from fasim.schedules.tiling import Tiling
from fasim.simulator.issue_order import longest_first
from fasim.simulator.lowering import main_loop
from fasim.simulator.trips import grid_trips

MIB = 2**20


def order(problem: Attention, section_bytes: int) -> tuple[list[int], int]:
    """Trips in the order of issue, of one pattern, and the patterns of the grid."""
    mapping = replace(flash3.mapping((128, 128), 128, "fp16"), section_bytes=section_bytes)
    kernel: Kernel
    (kernel,) = flash3.kernels(problem, Tiling(128, 128), mapping)
    recorded = record(kernel)
    ordered = longest_first(grid_trips(recorded, main_loop(recorded)), kernel)
    return [trips.total for trips in ordered.pattern], ordered.repeats


def test_a_section_is_the_heads_whose_keys_and_values_fit() -> None:
    # K and V of a head: 2 × 512 × 128 halves, a quarter MiB.
    problem = Attention(2, 8, 512, 512, 128, causal=True)
    assert order(problem, MIB) == ([4] * 4 + [3] * 4 + [2] * 4 + [1] * 4, 4)
    assert order(problem, MIB - 1) == ([4] * 2 + [3] * 2 + [2] * 2 + [1] * 2, 8)
    assert order(problem, 0) == ([4, 3, 2, 1], 16)
    assert order(problem, 1024 * MIB)[1] == 1


def test_heads_of_a_group_come_with_their_keys() -> None:
    problem = Attention(1, 16, 512, 512, 128, kv_heads=4, causal=True)
    assert order(problem, MIB // 4)[1] == 4  # a kv head, four query heads


@pytest.mark.parametrize("heads", [5, 12])
def test_every_block_is_issued_once(heads: int) -> None:
    problem = Attention(3, heads, 900, 700, 128, causal=True)
    pattern, repeats = order(problem, MIB)
    assert len(pattern) * repeats == 3 * heads * 8
    assert sorted(pattern, reverse=True) == pattern
