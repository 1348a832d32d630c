"""Lowered streams of warp-specialised kernels: exact totals, rates, and what gives them.

Rates are those of FlashAttention-3's compiled loops, in cycles: 2816 for 128×176 and 2048 for
128×128 of head_dim 128, 1990 for 192×128 of head_dim 64; 4190 for 128×176 without turns and delay.
"""

from collections import Counter
from dataclasses import replace
from itertools import groupby

import pytest

from fasim.hardware import load
from fasim.problem import Attention
from fasim.schedules import flash3
from fasim.schedules.mapping import Mapping
from fasim.schedules.record import record
from fasim.schedules.tiling import Tiling
from fasim.simulator.loop_rates import stream_rate
from fasim.simulator.lowering import LoopStream, lower, main_loop
from fasim.simulator.stream import Item

GPU = load("h100").gpu
TILES = [(128, (128, 176)), (128, (128, 128)), (64, (192, 128)), (256, (128, 80))]


def lowered(
    head_dim: int, tile: tuple[int, int], mapping: Mapping | None = None, dtype: str = "fp16"
) -> LoopStream:
    problem = Attention(1, 1, 4096, 4096, head_dim, dtype=dtype)  # type: ignore[arg-type]
    mapping = mapping or flash3.mapping(tile, head_dim, dtype)
    (kernel,) = flash3.kernels(problem, Tiling(*tile, descending=True), mapping)
    recorded = record(kernel)
    return lower(recorded, GPU, main_loop(recorded))


def totals(stream: LoopStream) -> Counter[str]:
    cycles: Counter[str] = Counter()
    for role in stream.plain:
        for item in role.items:
            cycles[item.pipe] += item.cycles * role.warps_per_scheduler
    return cycles


def rate(head_dim: int, tile: tuple[int, int], **changes: object) -> float:
    mapping = replace(flash3.mapping(tile, head_dim, "fp16"), **changes)  # type: ignore[arg-type]
    return stream_rate(lowered(head_dim, tile, mapping).plain, 1, GPU).cycles


def products(items: tuple[Item, ...]) -> list[str]:
    """Names of the tensor items in order, each product once."""
    names = [item.name for item in items if item.pipe == "tensor"]
    return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]


@pytest.mark.parametrize(("head_dim", "tile"), TILES)
def test_tensor_and_sfu_work_is_exact(head_dim: int, tile: tuple[int, int]) -> None:
    rows, columns = tile
    cycles = totals(lowered(head_dim, tile))
    assert cycles["tensor"] == 4 * rows * columns * head_dim // 4096
    # 16 lanes an SM: one exponential a score, and for each row one in each of a quad's threads.
    assert cycles["sfu"] == rows * columns // 16 + 4 * rows // 16


@pytest.mark.parametrize(
    ("head_dim", "tile", "compiled"),
    [(128, (128, 176), 2816), (128, (128, 128), 2048)],
)
def test_rates_are_within_a_tenth_of_the_compiled_loops(
    head_dim: int, tile: tuple[int, int], compiled: int
) -> None:
    assert rate(head_dim, tile) == pytest.approx(compiled, rel=0.1)


def test_the_rate_of_head_dim_64_is_within_a_fifth_of_the_compiled_loop() -> None:
    """1990 cycles were timed with latencies that begin when an instruction has left its pipe."""
    assert rate(64, (192, 128)) == pytest.approx(1990, rel=0.2)


def test_softmax_is_hidden_by_turns_and_delay_and_by_nothing_else() -> None:
    tile = (128, 176)
    plain = rate(128, tile, delayed=(), ping_pong=False)
    compiled = 4190
    assert plain == pytest.approx(compiled, rel=0.11)
    turns = rate(128, tile, delayed=())
    both = rate(128, tile)
    assert both <= turns < 0.8 * compiled
    assert both < 1.05 * 2816


def test_a_delayed_product_is_issued_behind_the_next_tiles_first() -> None:
    stream = lowered(128, (128, 128)).plain[0]
    assert products(stream.items) == ["S", "O"]
    first_softmax = next(i for i, item in enumerate(stream.items) if item.name == "row_max")
    late = next(i for i, item in enumerate(stream.items) if item.name == "O")
    assert late < first_softmax
    # Its P was made in the iteration before.
    assert {back for needed, back in stream.items[late].needs if needed > late} == {1}
    # P and O are written again only after it.
    for name in ("cast", "mul"):
        last = max(i for i, item in enumerate(stream.items) if item.name == name)
        assert (late, 0) in stream.items[last].needs


def test_without_delay_softmax_comes_between() -> None:
    mapping = replace(flash3.mapping((128, 128), 128, "fp16"), delayed=())
    items = lowered(128, (128, 128), mapping).plain[0].items
    kinds = [item.name for item in items if item.name in ("S", "exp2", "O")]
    assert kinds.index("O") > kinds.index("exp2") > kinds.index("S")
    # O is rescaled only once the product of the iteration before is done.
    late = max(i for i, item in enumerate(items) if item.name == "O")
    assert any((late, 1) in item.needs for item in items if item.name == "mul")


def test_warpgroups_take_turns_in_a_ring() -> None:
    roles = lowered(64, (192, 128)).plain
    assert len(roles) == 3
    barriers = [[i.barrier.name for i in role.items if i.barrier] for role in roles]
    assert barriers == [["turn 0", "turn 1"], ["turn 1", "turn 2"], ["turn 2", "turn 0"]]
    begins = [next(i.barrier.arrived for i in role.items if i.barrier) for role in roles]
    assert begins == [1, 0, 0]
    assert {role.warps_per_scheduler for role in roles} == {1}


def test_one_warpgroup_has_no_turns() -> None:
    (role,) = lowered(128, (64, 128)).plain
    assert not any(item.barrier for item in role.items)


def test_tma_takes_an_instruction_a_tile_and_a_cluster_half_of_the_bytes() -> None:
    tile = (128, 176)
    alone = flash3.mapping(tile, 128, "fp16")
    paired = replace(alone, multicast=(("K", 2), ("V", 2)))
    for mapping, share in ((alone, 1), (paired, 2)):
        stream = lowered(128, tile, mapping)
        copies = [item for item in stream.plain[0].items if item.pipe == "copy"]
        assert [item.count for item in copies] == [1, 1]
        expected = 2 * 176 * 128 * 2 / share / GPU.l2.read_bytes_per_clock_per_sm
        assert totals(stream)["copy"] == pytest.approx(expected, rel=0.01)


def test_p_that_goes_through_shared_memory_is_written_there_and_read() -> None:
    tile = (192, 192)
    mapping = flash3.mapping(tile, 64, "fp16")
    assert mapping.operands_in_registers == ()
    through = lowered(64, tile, mapping)
    kept = lowered(64, tile, replace(mapping, operands_in_registers=("O",)))
    written = totals(through)["shared_memory"] - totals(kept)["shared_memory"]
    assert written == pytest.approx(192 * 192 * 2 / 128 * 4 / 4, rel=0.01)


def test_one_byte_operands_multiply_twice_as_fast_and_v_is_transposed() -> None:
    tile = (128, 128)
    one, two = lowered(128, tile, dtype="fp8"), lowered(128, tile)
    assert totals(one)["tensor"] * 2 == totals(two)["tensor"]
    mapping = replace(flash3.mapping(tile, 128, "fp8"), transposed=())
    straight = totals(lowered(128, tile, mapping, "fp8"))["shared_memory"]
    assert totals(one)["shared_memory"] - straight == 2 * 128 * 128 // 128


def test_a_loop_of_delayed_products_only_is_refused() -> None:
    mapping = replace(flash3.mapping((128, 128), 128, "fp16"), delayed=("S", "O"))
    with pytest.raises(ValueError, match="delays every matmul"):
        lowered(128, (128, 128), mapping)


def test_arriving_tiles_are_spread_over_products() -> None:
    """K and V of the next iteration: never more than a few pieces between two products."""
    for role in lowered(128, (128, 128), flash3.mapping((128, 128), 128, "fp16")).plain:
        names = [item.name for item in role.items if item.pipe in ("tensor", "shared_memory")]
        names = [name for name in names if name != "shuffle"]
        runs = [len(list(run)) for fill, run in groupby(names, lambda n: n[:4] == "fill") if fill]
        assert sum(runs) == 2 * 128 * 128 * 2 // 2 // 4 // 512  # a warp's share of both tiles
        assert max(runs) <= 3
