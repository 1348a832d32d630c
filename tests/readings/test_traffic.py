"""Bytes and FLOPs: traffic == closed form == numerics, and exact cases worked by hand."""

from dataclasses import replace

import pytest
from hypothesis import given, settings

from fasim.hardware import Gpu
from fasim.problem import Attention
from fasim.readings import numerics
from fasim.readings.traffic import Access, Flops, Level, merge, total, traffic
from fasim.schedules import catalog
from fasim.schedules.language import Block
from fasim.schedules.plan import Options
from tests.readings.chains import CHAINS, Tiles, build_flash1, problems, shape_of, tile_sizes
from tests.readings.closed_forms import Bytes

KIB, MIB = 2**10, 2**20


def moved(level: Level) -> Bytes:
    """(read, written) of each tensor that moved at all."""
    assert not any(access.reduce_bytes for access in level.values())
    return {
        name: (access.read_bytes, access.write_bytes)
        for name, access in level.items()
        if access.total_bytes
    }


def nonzero(counted: Bytes) -> Bytes:
    return {name: both for name, both in counted.items() if any(both)}


@pytest.mark.parametrize("chain", CHAINS)
@given(problem=problems(dropout=True, windows=True), tiles=tile_sizes())
@settings(max_examples=120, deadline=None)
def test_traffic_numerics_and_closed_form_agree_byte_for_byte(
    chain: str, problem: Attention, tiles: Tiles
) -> None:
    build, closed_form = CHAINS[chain]
    kernels = build(problem, tiles)
    predicted = traffic(kernels).kernels
    run = numerics.run(kernels, numerics.random_inputs(problem))
    expected = closed_form(shape_of(problem), tiles)
    assert [kernel.kernel for kernel in predicted] == [kernel.kernel for kernel in expected]
    for kernel, level, flops, closed in zip(
        predicted, run.kernels, run.tensor_flops, expected, strict=True
    ):
        assert moved(kernel.global_) == nonzero(closed.global_) == moved(level)
        assert moved(kernel.compulsory) == nonzero(closed.compulsory)
        assert kernel.flops.tensor == closed.executed_flops == flops
        assert kernel.flops.tensor_useful == closed.useful_flops


def test_flash_attention_2_at_n_4096(a100: Gpu) -> None:
    problem = Attention(4, 32, 4096, 4096, 128)
    heads = problem.batch * problem.heads
    plan = catalog.plan(problem, a100, implementation="flash-attn-2", options=Options((128, 64)))
    level = traffic(plan.kernels).global_
    assert {name: (r // heads, w // heads) for name, (r, w) in moved(level).items()} == {
        "Q": (1 * MIB, 0),
        "K": (32 * MIB, 0),
        "V": (32 * MIB, 0),
        "O": (0, 1 * MIB),
        "LSE": (0, 16 * KIB),
    }
    assert total(level).total_bytes == heads * (66 * MIB + 16 * KIB)


@pytest.mark.parametrize("causal", [False, True])
def test_standard_makes_the_eight_accesses_kernel_by_kernel(a100: Gpu, causal: bool) -> None:
    problem = Attention(2, 3, 1024, 512, 64, causal=causal)
    query, key = 2 * 3 * 1024 * 64 * 2, 2 * 3 * 512 * 64 * 2
    scores = 2 * 3 * 1024 * 512 * 2
    plan = catalog.plan(problem, a100, "standard")
    assert [(k.kernel, moved(k.compulsory)) for k in traffic(plan.kernels).kernels] == [
        ("query_key", {"Q": (query, 0), "K": (key, 0), "S": (0, scores)}),
        ("softmax", {"S": (scores, 0), "P": (0, scores)}),
        ("probability_value", {"P": (scores, 0), "V": (key, 0), "O": (0, query)}),
    ]


def test_a_row_that_sees_nothing_is_not_read(a100: Gpu) -> None:
    # 64 keys and 192 queries: only the last 64 queries see anything.
    problem = Attention(1, 1, 192, 64, 64, causal=True)
    level = traffic(
        catalog.plan(problem, a100, "flash2", options=Options((64, 64))).kernels
    ).global_
    assert level["Q"].read_bytes == 64 * 64 * 2
    assert level["O"].write_bytes == 192 * 64 * 2


def test_a_load_before_two_loops_happens_once_if_anything_is_seen() -> None:
    def sum_of_products(block: Block, problem: Attention) -> None:
        q = block.load("Q", block.all("q"))
        for n_rows in block.loop("k"):
            k = block.load("K", n_rows)
            for m_rows in block.loop("q", seen_from=n_rows):
                s = block.matmul(q, k.T, name="S").row_sum()
                o = block.load("O", m_rows).to("fp32") + block.full(0.0, m_rows)
                block.store("O", o.to(problem.dtype), m_rows)
                block.store("row_sum", s, block.all("q"))
                block.load("row_sum", block.all("q")).row_max()

    problem = Attention(1, 2, 80, 50, 16, causal=True)
    (kernel,) = build_flash1(problem, Tiles(16, 32))
    kernels = (replace(kernel, program=sum_of_products),)
    inputs = numerics.random_inputs(problem)
    counted = numerics.run(kernels, inputs | {"O": inputs["Q"]}).kernels[0]
    level = traffic(kernels).global_
    assert moved(level) == moved(counted)
    assert level["Q"].read_bytes == 2 * 80 * 16 * 2


def test_special_functions_and_fp32_work_by_hand(a100: Gpu) -> None:
    # One block, one step of 16 × 32 scores, d = 64.
    problem = Attention(1, 1, 16, 32, 64)
    flops = traffic(catalog.plan(problem, a100, "flash2", options=Options((16, 32))).kernels).flops
    # exp2 of the scores and of the correction; at the end log2 and 1/row_sum.
    assert flops.sfu == 16 * 32 + 3 * 16
    by_score = 4  # maximum, scale, subtract, sum
    by_output = 2  # rescale, normalise
    by_row = 1 + 1 + 2 + 2 + 3  # new maximum, shift, correction's exponent, row_sum, LSE
    assert flops.fp32 == 16 * 32 * by_score + 16 * 64 * by_output + 16 * by_row
    assert flops.tensor == flops.tensor_useful == 2 * 2 * 16 * 32 * 64


def test_causal_executes_what_its_tiles_cover_and_needs_half(a100: Gpu) -> None:
    problem = Attention(1, 1, 512, 512, 64, causal=True)
    flops = traffic(catalog.plan(problem, a100, "flash2", options=Options((128, 64))).kernels).flops
    pairs = 512 * 513 // 2
    assert flops.tensor_useful == 4 * 64 * pairs
    assert flops.tensor == 4 * 64 * 128 * 64 * (2 + 4 + 6 + 8)


def test_cost_does_not_grow_with_what_repeats(a100: Gpu) -> None:
    small = Attention(1, 1, 4096, 4096, 128, causal=True)
    large = Attention(64, 16, 4096, 4096, 128, causal=True)
    by_size = [
        total(traffic(catalog.plan(problem, a100, "flash2").kernels).global_).total_bytes
        for problem in (small, large)
    ]
    assert by_size[1] == 1024 * by_size[0]


def test_sums_over_kernels_and_tensors(a100: Gpu) -> None:
    chain = traffic(catalog.plan(Attention(1, 2, 128, 128, 64), a100, "standard").kernels)
    assert merge([{"A": Access(1, 2, 3)}, {"A": Access(10), "B": Access(0, 5)}]) == {
        "A": Access(11, 2, 3),
        "B": Access(0, 5),
    }
    assert total({"A": Access(1, 2, 3), "B": Access(10, 20, 30)}).total_bytes == 66
    # P is written by one kernel and read by the next.
    scores = 2 * 128 * 128 * 2
    assert chain.compulsory["P"] == Access(scores, scores)
    assert chain.flops == sum((k.flops for k in chain.kernels), Flops(0, 0, 0, 0))
