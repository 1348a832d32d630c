"""What decides whether keys are split, and into how many parts."""

import pytest

from fasim.hardware import Gpu
from fasim.problem import Attention, ProblemError
from fasim.schedules import catalog
from fasim.schedules.implementations.flash_attn_2_split import num_splits
from fasim.schedules.plan import Options, Plan, Refused


@pytest.mark.parametrize(
    ("blocks", "slots", "key_tiles", "splits"),
    [
        (173, 216, 64, 1),  # 0.8 of the slots are 172.8: full enough
        (172, 216, 64, 5),  # 3.98 waves; up to four splits fill 0.80 of theirs
        (108, 216, 64, 2),
        (100, 216, 64, 2),  # 0.93 of a wave
        (8, 216, 1, 1),  # one tile has no halves
        (8, 216, 64, 22),  # three tiles each: 22 is the fewest that need no more than three
        (1, 216, 1000, 112),  # 112 and 125 of 128 are eligible; 112 has 0.85 of 125's
        (216, 264, 64, 1),  # H100: 0.8 of the slots are 211
    ],
)
def test_the_heuristic_by_hand(blocks: int, slots: int, key_tiles: int, splits: int) -> None:
    assert num_splits(blocks, slots, key_tiles) == splits


def by_package(gpu: Gpu, problem: Attention, **options: object) -> Plan:
    return catalog.plan(
        problem,
        gpu,
        implementation="flash-attn-2",
        options=Options(**options),  # type: ignore[arg-type]
    )


def test_flash_attn_2_splits_what_would_leave_the_gpu_idle(a100: Gpu) -> None:
    decode = by_package(a100, Attention(1, 32, 1, 8192, 128, 8, causal=True))
    assert (decode.schedule, decode.tile, decode.num_splits) == ("split_kv", (64, 128), 22)
    assert decode.assumptions == (
        "22 splits of the keys, by FlashAttention-2's heuristic",
        "the 4 query heads of a group are rows of one tile",
    )
    first, second = decode.kernels
    assert first.grid_shape == (1, 22, 8, 1)
    assert (first.name, second.name) == ("split_kv", "combine")
    # Eight heads of 16 row tiles: 128 of 216 slots; 512 blocks fill 0.79 of three waves.
    assert by_package(a100, Attention(1, 8, 1024, 1024, 64)).num_splits == 4
    assert by_package(a100, Attention(4, 16, 1024, 1024, 64)).schedule == "flash2"


def test_flash_attn_2_packs_one_query_even_without_splits(a100: Gpu) -> None:
    plan = by_package(a100, Attention(64, 32, 1, 4096, 128, 8))
    (kernel,) = plan.kernels
    assert (plan.schedule, plan.tile, kernel.group) == ("decode", (128, 64), 4)
    assert by_package(a100, Attention(64, 32, 2, 4096, 128, 8)).schedule == "flash2"
    assert by_package(a100, Attention(64, 32, 1, 4096, 128)).schedule == "flash2"


def test_a_paged_cache_takes_the_split_kernel_whatever_the_splits(a100: Gpu) -> None:
    plan = by_package(a100, Attention(64, 32, 1, 4096, 128, 8), page_size=256)
    assert (plan.schedule, plan.tile, plan.num_splits) == ("decode", (64, 128), 1)
    assert plan.kernels[0].tensor("K").page_rows == 256


def test_options_that_mean_nothing_are_refused(a100: Gpu) -> None:
    problem = Attention(1, 8, 1, 1024, 64)
    for schedule, options, said in (
        ("flash2", Options(num_splits=2), "it takes no --num-splits"),
        ("decode", Options(num_splits=2), "it takes no --num-splits"),
        ("standard", Options(page_size=16), "it takes no --page-size"),
    ):
        with pytest.raises(Refused, match=said):
            catalog.plan(problem, a100, schedule, options=options)
    with pytest.raises(ProblemError, match="num_splits is 0"):
        Options(num_splits=0)


@pytest.mark.parametrize(("head_dim", "tile"), [(64, (64, 256)), (128, (64, 128)), (256, (64, 64))])
def test_tiles_of_the_split_kernel(a100: Gpu, head_dim: int, tile: tuple[int, int]) -> None:
    problem = Attention(1, 8, 1, 65536, head_dim)
    assert by_package(a100, problem).tile == tile
    assert catalog.plan(problem, a100, "split_kv").tile == tile
