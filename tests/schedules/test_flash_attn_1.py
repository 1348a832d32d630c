"""The first versions of the flash-attn package: tiles, splits, backward's choice, refusals."""

import pytest

from fasim.hardware import load
from fasim.problem import Attention
from fasim.schedules import catalog
from fasim.schedules.implementations.flash_attn_1 import backward_by_keys, forward_splits
from fasim.schedules.plan import Refused
from fasim.schedules.record import record
from fasim.schedules.residency import block_use, residency

A100 = load("a100").gpu


@pytest.mark.parametrize(
    ("head_dim", "seqlen", "tile_n"),
    [(32, 1024, 256), (64, 512, 256), (64, 128, 128), (128, 4096, 128)],
)
def test_tiles_warps_and_blocks_per_sm(head_dim: int, seqlen: int, tile_n: int) -> None:
    problem = Attention(8, 16, seqlen, seqlen, head_dim)
    (kernel,) = catalog.plan(problem, A100, implementation="flash-attn-1").kernels
    assert (kernel.tiles["q"], kernel.tiles["k"], kernel.mapping.warps) == (16, tile_n, 4)
    assert residency(block_use(record(kernel)), A100).blocks_per_sm == 2


@pytest.mark.parametrize(
    ("heads", "splits"),
    [
        # 216 slots. 1080 heads: five waves. 128: 3 · 128 fill 1.78 of 2, 5 · 128 2.96 of 3.
        (1080, 1),
        (216, 1),
        (128, 5),
        # 13 · 16 fill 0.963 of a wave, the fewest within 5 % of 27 · 16, two waves full.
        (16, 13),
    ],
)
def test_the_fewest_splits_near_the_best(heads: int, splits: int) -> None:
    assert forward_splits(heads, 108) == splits


@pytest.mark.parametrize(
    ("batch", "seqlen", "causal", "by_keys"),
    [
        # 32 heads on 108 SMs leave most idle; 1024 heads fill 9.48 of 10 waves.
        (2, 4096, False, True),
        (64, 512, False, False),
        (64, 4096, True, True),  # sixteen key tiles
    ],
)
def test_backward_by_key_tiles(batch: int, seqlen: int, causal: bool, by_keys: bool) -> None:
    problem = Attention(batch, 16, seqlen, seqlen, 64, causal=causal, direction="backward")
    assert backward_by_keys(problem, 108) == by_keys
    plan = catalog.plan(problem, A100, implementation="flash-attn-1")
    names = ["preprocess", "flash2_backward", "convert_dq"] if by_keys else ["flash1_backward"]
    assert [kernel.name for kernel in plan.kernels] == names
    main = next(kernel for kernel in plan.kernels if kernel.name.endswith("backward"))
    assert main.mapping.warps == 8
    assert residency(block_use(record(main)), A100).blocks_per_sm == 1


def test_the_first_release_has_a_block_a_head() -> None:
    problem = Attention(2, 16, 1024, 1024, 64, direction="both")
    plan = catalog.plan(problem, A100, implementation="flash-attn-0.1")
    assert [kernel.blocks for kernel in plan.kernels] == [32, 32]


@pytest.mark.parametrize(
    ("name", "problem", "message"),
    [
        ("flash-attn-0.1", Attention(1, 1, 64, 64, 128), "head_dim up to 64, not 128"),
        ("flash-attn-0.1", Attention(1, 1, 64, 64, 64, dtype="bf16"), "it takes fp16, not bf16"),
        ("flash-attn-1", Attention(1, 1, 64, 64, 160), "head_dim up to 128, not 160"),
        ("flash-attn-1", Attention(1, 4, 64, 64, 64, kv_heads=2), "as many key/value heads"),
        ("flash-attn-1", Attention(1, 1, 64, 80, 64, causal=True), "as many queries as keys"),
    ],
)
def test_what_they_do_not_take(name: str, problem: Attention, message: str) -> None:
    with pytest.raises(Refused, match=message):
        catalog.plan(problem, A100, implementation=name)


def test_backward_of_wide_heads_needs_the_large_shared_memory() -> None:
    problem = Attention(1, 1, 64, 64, 128, direction="both")
    with pytest.raises(Refused, match="backward takes head_dim up to 64 on rtx4090"):
        catalog.plan(problem, load("rtx4090").gpu, implementation="flash-attn-1")
