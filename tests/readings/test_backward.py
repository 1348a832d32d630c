"""The backward chains: exact bytes, right gradients, and what their papers say of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings

from fasim.hardware import Gpu, load
from fasim.problem import Attention
from fasim.readings import numerics, reference
from fasim.readings.rounding import Array
from fasim.readings.traffic import Level, traffic
from fasim.schedules import (
    catalog,
    flash1_backward,
    flash2_backward,
    flash3_backward,
    one_pass,
    standard_backward,
    streamed_backward,
    two_pass,
)
from fasim.schedules.gradients import STREAMING
from fasim.schedules.implementations import pytorch
from fasim.schedules.language import Block, Kernel, ProgramError, Tensor
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Options
from fasim.schedules.record import record
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


def build_flash3(problem: Attention, tiles: Tiles) -> Kernels:
    tiling = Tiling(tiles.tile_m, tiles.tile_n)
    return flash3_backward.kernels(problem, tiling, buffered("Q", "K", "V", "dO", buffers=2))


def build_padded_flash3(problem: Attention, tiles: Tiles) -> Kernels:
    tiling = Tiling(tiles.tile_m, tiles.tile_n, descending=True)
    return flash3_backward.kernels(problem, tiling, buffered("Q", "K", "V", "dO"), head_dim=96)


def build_streamed(problem: Attention, tiles: Tiles, *, keys_resident: bool) -> Kernels:
    tiling = Tiling(tiles.tile_m, tiles.tile_n)
    mapping = buffered("Q", "K", "V", "dO", buffers=2)
    return streamed_backward.kernels(problem, tiling, mapping, keys_resident=keys_resident)


def build_flash1(problem: Attention, tiles: Tiles) -> Kernels:
    tiling = Tiling(tiles.tile_m, tiles.tile_n)
    return flash1_backward.kernels(problem, tiling, buffered("Q", "K", "V", "O", "dO", "dQ"))


def build_two_pass(problem: Attention, tiles: Tiles) -> Kernels:
    tiling = Tiling(tiles.tile_m, tiles.tile_n)
    mapping = buffered("Q", "K", "V", "dO")
    return two_pass.kernels(problem, tiling, mapping, tiling, mapping)


def build_one_pass(problem: Attention, tiles: Tiles, *, parallel: bool) -> Kernels:
    tiling = Tiling(tiles.tile_m, tiles.tile_n)
    return one_pass.kernels(problem, tiling, buffered("Q", "K", "V", "dO"), parallel=parallel)


def build_standard(problem: Attention, tiles: Tiles) -> Kernels:
    return standard_backward.kernels(problem, gemm(tiles), STREAMING, rows_per_block=4)


def build_pytorch(problem: Attention, tiles: Tiles) -> Kernels:
    return pytorch.backward_kernels(problem, gemm(tiles))


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
    "flash3": (build_flash3, lambda s, t: forms.flash3_backward(s, t.tile_m, t.tile_n)),
    "flash3, padded head": (
        build_padded_flash3,
        lambda s, t: forms.flash3_backward(s, t.tile_m, t.tile_n, compiled_head_dim=96),
    ),
    "streamed": (
        partial(build_streamed, keys_resident=False),
        lambda s, t: forms.streamed_backward(s, t.tile_m, t.tile_n, keys_resident=False),
    ),
    "streamed, K stays": (
        partial(build_streamed, keys_resident=True),
        lambda s, t: forms.streamed_backward(s, t.tile_m, t.tile_n, keys_resident=True),
    ),
    "two-pass": (build_two_pass, lambda s, t: forms.two_pass(s, t.tile_m, t.tile_n)),
    "one-pass, in sequence": (
        partial(build_one_pass, parallel=False),
        lambda s, t: forms.one_pass(s, t.tile_m, t.tile_n, parallel=False),
    ),
    "one-pass, in parallel": (
        partial(build_one_pass, parallel=True),
        lambda s, t: forms.one_pass(s, t.tile_m, t.tile_n, parallel=True),
    ),
    "standard": (build_standard, lambda s, t: forms.standard_backward(s, gemm_tiles(t))),
    "pytorch": (build_pytorch, lambda s, t: forms.pytorch_backward(s, gemm_tiles(t))),
}

ON_HOPPER = ("flash3", "flash-attn-3")
# What blocks add up in FP32, and what is made of it: the order of blocks shows in the last bits.
REDUCED = {
    "flash2": ("dQ_accum", "dQ"),
    "flash3": ("dQ_accum", "dQ", "dK_accum", "dK", "dV_accum", "dV"),
    "streamed": ("dQ_accum", "dQ"),
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
@given(problem=problems(dropout=True, windows=True), tiles=tile_sizes())
@settings(max_examples=60, deadline=None)
def test_traffic_numerics_and_closed_form_agree_byte_for_byte(
    chain: str, problem: Attention, tiles: Tiles
) -> None:
    assert_same_bytes(chain, problem, tiles)


def assert_same_bytes(chain: str, problem: Attention, tiles: Tiles) -> list[str]:
    """Traffic, numerics and the closed form; returns the kernels' names."""
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
    return [kernel.kernel for kernel in predicted]


@pytest.mark.parametrize(
    ("problem", "last"),
    [
        (Attention(2, 3, 70, 70, 40), ["scale_dK_unscaled", "stack_gradients"]),
        (Attention(2, 3, 70, 60, 40), ["copy_dQ_copy", "copy_dK_copy", "copy_dV_copy"]),
        (Attention(2, 4, 70, 70, 40, kv_heads=2), ["copy_dQ_copy", "sum_dK", "sum_dV"]),
    ],
)
def test_gradients_of_one_packed_tensor_are_stacked(problem: Attention, last: list[str]) -> None:
    names = assert_same_bytes("pytorch", problem, Tiles(32, 48))
    assert names[-len(last) :] == last


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
@given(
    problem=problems(("fp32", "fp16", "bf16"), RULE_HEAD_DIMS, dropout=True, windows=True),
    tiles=tile_sizes(),
)
@settings(max_examples=40, deadline=None)
def test_gradients_are_right_for_random_problems(
    chain: str, problem: Attention, tiles: Tiles
) -> None:
    problem = backward(problem)
    assert_right(problem, CHAINS[chain][0](problem, tiles), numerics.random_inputs(problem))


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize(
    "problem",
    [
        Attention(1, 1, 1, 200, 64, causal=True),
        Attention(1, 1, 200, 1, 64),
        Attention(1, 2, 150, 50, 32, causal=True),
        Attention(2, 6, 50, 64, 32, kv_heads=2, causal=True),
        Attention(1, 8, 64, 64, 32, kv_heads=1, dtype="bf16"),
        Attention(2, 3, 70, 70, 40),
    ],
    ids=["one row", "one key", "rows that see nothing", "GQA", "MQA", "packed"],
)
def test_edges(chain: str, problem: Attention) -> None:
    problem = backward(problem)
    kernels = CHAINS[chain][0](problem, Tiles(32, 48))
    tensors = assert_right(problem, kernels, numerics.random_inputs(problem))
    unseen = max(0, problem.seqlen_q - problem.seqlen_k) if problem.causal else 0
    assert (tensors["dQ"][:, :, :unseen] == 0).all()


@pytest.mark.parametrize("chain", CHAINS)
def test_blocks_in_another_order_give_the_same_bits_but_for_reductions(chain: str) -> None:
    problem = backward(Attention(2, 4, 100, 90, 32, kv_heads=2, causal=True))
    inputs = numerics.random_inputs(problem)
    kernels = CHAINS[chain][0](problem, Tiles(32, 48))
    one, other = (numerics.run(kernels, inputs, seed) for seed in (1, 2))
    assert one.kernels == other.kernels
    for name, values in one.tensors.items():
        if name in REDUCED.get(chain.partition(",")[0], ()):
            # The order of FP32 sums moves a rounded value by a step at most.
            assert np.abs(values - other.tensors[name]).max() < 2**-7
        else:
            np.testing.assert_array_equal(values, other.tensors[name], err_msg=name)


@pytest.mark.parametrize("chain", CHAINS)
def test_a_mapping_moves_no_byte_and_no_bit(chain: str) -> None:
    problem = backward(Attention(1, 4, 100, 90, 32, kv_heads=2, causal=True))
    inputs = numerics.random_inputs(problem)
    kernels = CHAINS[chain][0](problem, Tiles(32, 48))
    before, bytes_before = numerics.run(kernels, inputs), traffic(kernels)
    buffers = tuple((name, 3) for name in ("Q", "K", "V", "O", "dO", "P", "dP", "dS", "dO_copy"))
    for mapping in (
        Mapping(8, "wgmma", "tma", buffers, operands_in_registers=("dV", "dK", "dQ")),
        Mapping(8, buffers=buffers, warp_grid=(2, 4), warp_grids=(("dV", (4, 2)),)),
        Mapping(1, "none", "registers", block_order="longest-first", registers_per_thread=255),
    ):
        mapped = tuple(replace(kernel, mapping=mapping) for kernel in kernels)
        assert traffic(mapped) == bytes_before
        after = numerics.run(mapped, inputs)
        assert after.kernels == before.kernels
        for name, values in before.tensors.items():
            np.testing.assert_array_equal(values, after.tensors[name], err_msg=name)


# What the papers and the real kernels say.


@pytest.mark.parametrize(("causal", "mebibytes"), [(False, 64), (True, 33)])
def test_flash2_reduces_dq_once_a_key_tile(a100: Gpu, causal: bool, mebibytes: int) -> None:
    """d = 128, 64 × 128, N = 4096: 32 key tiles × 2 MiB of FP32; causal sees 33 of 64 halves."""
    problem = Attention(1, 1, 4096, 4096, 128, causal=causal, direction="backward")
    plan = catalog.plan(problem, a100, implementation="flash-attn-2")
    assert plan.tile == (64, 128)
    moved_bytes = traffic(plan.kernels).global_["dQ_accum"]
    assert moved_bytes.reduce_bytes == mebibytes * 2**20
    # Zeroed before, read once after.
    assert moved_bytes.write_bytes == moved_bytes.read_bytes == 2 * 2**20


def test_five_products_or_seven(a100: Gpu) -> None:
    problem = Attention(1, 2, 512, 512, 64, direction="backward")
    one = 2 * 2 * 512 * 512 * 64
    for schedule, products in (("standard", 4), ("flash1", 5), ("flash2", 5)):
        plan = catalog.plan(problem, a100, schedule)
        assert traffic(plan.kernels).flops.tensor_useful == products * one
    plan = catalog.plan(problem, a100, implementation="triton")
    assert traffic(plan.kernels).flops.tensor_useful == 7 * one
    assert not any(access.reduce_bytes for access in traffic(plan.kernels).global_.values())


def test_flash3_is_flash2_where_no_head_is_shared() -> None:
    """The same loop over Q: equal tiles and direction give the same bits of all but dQ's sums."""
    problem = backward(Attention(2, 3, 100, 90, 40, causal=True, dtype="bf16"))
    inputs = numerics.random_inputs(problem)
    tiling, mapping = Tiling(32, 48, descending=True), buffered("Q", "K", "V", "dO")
    two = numerics.run(flash2_backward.kernels(problem, tiling, mapping), inputs).tensors
    three = numerics.run(flash3_backward.kernels(problem, tiling, mapping), inputs).tensors
    for name in ("dK", "dV", "delta"):
        np.testing.assert_array_equal(two[name], three[name], err_msg=name)


def test_flash3_adds_the_gradients_of_a_group_up_in_fp32() -> None:
    """Eight heads to a key head: each adds its dK and dV to one sum, four bytes an element."""
    problem = backward(Attention(2, 16, 512, 512, 128, kv_heads=2, causal=True))
    plan = catalog.plan(problem, load("h100").gpu, implementation="flash-attn-3")
    names = [kernel.name for kernel in plan.kernels]
    zeros, converts = ["zero_dK_accum", "zero_dV_accum"], ["convert_dq", "convert_dk", "convert_dv"]
    assert names == [*zeros, "preprocess", "flash3_backward", *converts]
    level = traffic(plan.kernels).global_
    one = 2 * 2 * 512 * 128 * 4
    for name in ("dK_accum", "dV_accum"):
        moved_bytes = level[name]
        assert moved_bytes.reduce_bytes == 8 * one
        assert moved_bytes.write_bytes == moved_bytes.read_bytes == one


def test_numerics_finds_sums_that_nobody_zeroed() -> None:
    problem = backward(Attention(1, 4, 64, 64, 32, kv_heads=2))
    kernels = build_flash3(problem, Tiles(32, 48))
    assert kernels[1].name == "zero_dV_accum"
    with pytest.raises(ProgramError, match="reduces into elements of dV_accum that nothing has"):
        numerics.run((kernels[0], *kernels[2:]), numerics.random_inputs(problem))


def test_eager_pytorch_moves_twenty_bytes_a_score(a100: Gpu) -> None:
    problem = Attention(1, 1, 1024, 1024, 64, direction="backward")
    level = traffic(catalog.plan(problem, a100, implementation="pytorch").kernels).compulsory
    of_scores = sum(level[name].total_bytes for name in ("P", "dP", "P_dP", "dS"))
    assert of_scores == 20 * 1024 * 1024


@pytest.mark.parametrize(
    "name", ["standard", "flash1", "flash2", "flash-attn-2", "pytorch", "triton", *ON_HOPPER]
)
@pytest.mark.parametrize("causal", [False, True])
def test_forward_leaves_what_backward_needs(a100: Gpu, name: str, causal: bool) -> None:
    gpu = load("h100").gpu if name in ON_HOPPER else a100
    problem = Attention(
        1, 4, 130, 130, 64, kv_heads=2, dtype="bf16", causal=causal, direction="both"
    )
    named = {"schedule" if name in catalog.SCHEDULES else "implementation": name}
    plan = catalog.plan(problem, gpu, **named)
    inputs = numerics.random_inputs(problem)
    # Nothing that a forward run saves; K_new and V_new are for chains that write the cache, and
    # earlier gradients for those that add to them.
    earlier = {"Q_grad", "K_grad", "V_grad"}
    assert set(inputs) == {"Q", "K", "V", "mask", "K_new", "V_new", "dO"} | earlier
    assert_right(problem, plan.kernels, inputs)
    apart = [
        catalog.plan(replace(problem, direction=direction), gpu, **named).kernels
        for direction in ("forward", "backward")
    ]
    assert [k.name for k in plan.kernels] == [k.name for chain in apart for k in chain]


def test_a_tile_is_taken_in_both_directions(a100: Gpu) -> None:
    problem = Attention(1, 1, 512, 512, 64, direction="both")
    for schedule in ("flash1", "flash2"):
        plan = catalog.plan(problem, a100, schedule, options=Options((64, 32)))
        tiles = [k.tiles for k in plan.kernels if k.name.startswith("flash")]
        assert len(tiles) == 2
        assert all((t["q"], t["k"]) == (64, 32) for t in tiles)


# Planted faults of reductions.

PROBLEM = Attention(1, 1, 64, 64, 32)
QUERIES = ("batch", "head", "q", "d")


def reducing(program: Callable[[Block, Attention], None], dtype: str = "fp32") -> Kernel:
    return Kernel(
        name="planted",
        program=program,
        problem=PROBLEM,
        grid=("k", "head", "batch"),
        lengths={"batch": 1, "head": 1, "q": 64, "k": 64, "d": 32},
        tiles={"q": 16, "k": 32},
        tensors=(Tensor("Q", QUERIES, "fp16"), Tensor("sum", QUERIES, dtype)),
        mapping=STREAMING,
    )


def add_q(block: Block, _: Attention) -> None:
    for m_rows in block.loop("q"):
        block.reduce("sum", block.load("Q", m_rows).to("fp32"), m_rows)


def run_planted(*kernels: Kernel) -> numerics.NumericsResult:
    return numerics.run(kernels, {"Q": numerics.random_inputs(PROBLEM)["Q"]})


def zero(block: Block, _: Attention) -> None:
    n_rows = block.rows("q")
    block.store("sum", block.full(0.0, n_rows, block.all("d")), n_rows)


def test_every_block_adds() -> None:
    zeroing = replace(reducing(zero), grid=("q", "head", "batch"), name="zero")
    run = run_planted(zeroing, reducing(add_q))
    np.testing.assert_array_equal(run.tensors["sum"], 2 * run.tensors["Q"])
    assert run.kernels[1]["sum"].reduce_bytes == 2 * 64 * 32 * 4


def test_numerics_finds_missing_zeroing() -> None:
    with pytest.raises(ProgramError, match="reduces into elements of sum that nothing has written"):
        run_planted(reducing(add_q))


def test_a_tensor_is_not_reduced_into_and_loaded_by_one_kernel() -> None:
    def reads_it(block: Block, problem: Attention) -> None:
        add_q(block, problem)
        for m_rows in block.loop("q"):
            block.store("Q", block.load("sum", m_rows).to("fp16"), m_rows)

    with pytest.raises(ProgramError, match="reduces into sum and loads it too"):
        record(reducing(reads_it))
    zeroing = replace(reducing(zero), grid=("q", "head", "batch"))
    with pytest.raises(ProgramError, match="sum, into which this kernel reduces"):
        run_planted(zeroing, reducing(reads_it))


def test_nor_stored() -> None:
    def zeroes_it(block: Block, problem: Attention) -> None:
        for m_rows in block.loop("q"):
            block.store("sum", block.full(0.0, m_rows, block.all("d")), m_rows)
        add_q(block, problem)

    with pytest.raises(ProgramError, match="reduces into sum and stores it too"):
        record(reducing(zeroes_it))
    with pytest.raises(ProgramError, match="reduces into sum, which this kernel writes"):
        run_planted(reducing(zeroes_it))


def test_only_fp32_is_reduced() -> None:
    with pytest.raises(ProgramError, match="both must be fp32"):
        record(reducing(add_q, dtype="fp16"))
