"""The repeating path against the reference, which simulates every block."""

from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fasim.simulator import repeat
from fasim.simulator.gpu_simulation import simulate
from fasim.simulator.work import TICKS_PER_SECOND, BlockClass, KernelWork, LoopRate

NS = 1000
ITERATION = 1024
BANDWIDTH = 400 * 10**9


def rate(*periods):
    return LoopRate(periods, tuple((("tensor", p - p // 3), ("sfu", p // 3)) for p in periods))


def uniform(block, blocks, sms=16, blocks_per_sm=1, chunks=4):
    return KernelWork(
        "k", (block,), (0,), blocks, sms, blocks_per_sm, BANDWIDTH, 2500 * NS, chunks
    )  # fmt: skip


def causal(tiles, heads, *, sms=16, blocks_per_sm=2, longest_first=False, load_bytes=0, chunks=4):
    """Blocks of 1 … `tiles` iterations, the last of them masked and 1.1 as long."""
    loop = rate(2300 * NS, 3900 * NS)
    classes = tuple(
        BlockClass(
            f"m{tile}", (("l2", 900 * NS),), 4096, loop, tile * ITERATION + 102,
            load_bytes * tile, (("l2", 500 * NS),), 4096,
        )
        for tile in range(1, tiles + 1)
    )  # fmt: skip
    order = range(tiles - 1, -1, -1) if longest_first else range(tiles)
    bandwidth = BANDWIDTH * sms // 16
    return KernelWork(
        "k", classes, tuple(order), heads, sms, blocks_per_sm, bandwidth, loop_chunks=chunks
    )


def without_names(result):
    return result.ticks, result.slot_ticks, result.dram_bytes


def assert_exact(work):
    result = simulate(work)
    assert result.repetition == "exact"
    assert without_names(result) == without_names(simulate(work, repeat=False))


# Blocks of one class: a state comes back with every wave.

fixed_ticks = st.one_of(st.just(0), st.integers(1, 3_000_000))
byte_counts = st.one_of(st.just(0), st.integers(1, 300_000))


@st.composite
def uniform_works(draw):
    """From idle DRAM to far more bytes than it can move; ragged last waves; 12 waves or more."""
    blocks_per_sm = draw(st.integers(1, 4))
    first = draw(st.integers(1, 2_000_000))
    periods = [first]
    for _ in range(3):
        periods.append(periods[-1] + draw(st.integers(0, first)))
    trips = draw(st.integers(64 * ITERATION, 256 * ITERATION))
    block = BlockClass(
        "b", (("l2", draw(fixed_ticks)),), draw(byte_counts), rate(*periods), trips,
        64 * draw(byte_counts), (("l2", draw(fixed_ticks)),), draw(byte_counts),
    )  # fmt: skip
    sms = draw(st.integers(1, 6))
    slots = sms * blocks_per_sm
    blocks = draw(st.integers(12 * slots, 20 * slots))
    return uniform(block, blocks, sms, blocks_per_sm, chunks=draw(st.integers(1, 5)))


@given(uniform_works())
@settings(max_examples=250, deadline=None)
def test_equal_blocks_repeat_to_the_tick(work):
    assert_exact(work)


IDLE_DRAM = BlockClass("idle", (("l2", 900_001),), 0, rate(2_300_007), 64 * ITERATION)
DRAM_BOUND = BlockClass("bound", (), 4096, rate(2_300_007), ITERATION, 2**20, (), 9000)
STREAMING = BlockClass("stream", (("fp32", 70_000),), 4096, None, 0, 0, (), 4096)
PAIRS = BlockClass(
    "pairs", (("l2", 900_001),), 16_384, rate(2_300_007, 3_900_011), 64 * ITERATION, 65_536,
    (("l2", 500_000),), 16_384,
)  # fmt: skip


@pytest.mark.parametrize(
    ("block", "blocks_per_sm"), [(IDLE_DRAM, 1), (DRAM_BOUND, 1), (STREAMING, 8), (PAIRS, 2)]
)
@pytest.mark.parametrize("extra", [0, 1, 11])
def test_all_but_two_waves_and_a_ragged_last_one_are_skipped(block, blocks_per_sm, extra):
    work = uniform(block, 40 * 16 * blocks_per_sm + extra, blocks_per_sm=blocks_per_sm)
    assert simulate(work).repeated_blocks == 38 * work.slots
    assert_exact(work)


# Blocks of several classes whose times are so few that states come back.


def small(classes, pattern, *, periods=(3, 5, 8), repeats=60, sms=3, blocks_per_sm=2, chunks=2):
    """Classes as (prologue, its bytes, half iterations, loop bytes, epilogue, its bytes)."""
    loop = rate(*periods)
    blocks = tuple(
        BlockClass(
            f"c{index}", (("l2", prologue),), reads, loop, halves * ITERATION // 2,
            loads if halves else 0, (("l2", epilogue),), writes,
        )
        for index, (prologue, reads, halves, loads, epilogue, writes) in enumerate(classes)
    )  # fmt: skip
    return KernelWork(
        "k", blocks, pattern, repeats, sms, blocks_per_sm, TICKS_PER_SECOND, loop_chunks=chunks
    )


few = st.one_of(st.just(0), st.integers(1, 12))
small_classes = st.lists(st.tuples(few, few, few, few, few, few), min_size=2, max_size=3)


@st.composite
def small_works(draw):
    classes = draw(small_classes)
    # A kernel that writes through DRAM is not one of those that go at their own pace.
    classes[0] = (*classes[0][:5], max(1, classes[0][5]))
    pattern = [*range(len(classes)), *draw(st.lists(st.integers(0, len(classes) - 1), max_size=3))]
    return small(
        classes, tuple(draw(st.permutations(pattern))),
        periods=draw(st.tuples(*[st.integers(1, 12)] * 3)), repeats=draw(st.integers(12, 90)),
        sms=draw(st.integers(1, 4)), blocks_per_sm=draw(st.integers(1, 3)),
        chunks=draw(st.integers(1, 3)),
    )  # fmt: skip


# Each is wrong if its part of the state is forgotten.
UNTIL_BYTES_ARE_HERE = small(
    [(7, 4, 2, 0, 0, 0), (0, 0, 0, 0, 0, 3), (0, 3, 6, 0, 6, 0)], (1, 0, 1, 2, 0),
    periods=(3, 1, 1), repeats=5, sms=2, blocks_per_sm=1, chunks=1,
)  # fmt: skip
WORK_SINCE_THE_LAST_EVENT = small(
    [(0, 0, 4, 0, 0, 12), (11, 0, 8, 0, 5, 0)], (1, 0, 1),
    periods=(3, 3, 1), repeats=42, sms=4, blocks_per_sm=2, chunks=1,
)  # fmt: skip
ORDER_OF_SMS = small(
    [(0, 4, 1, 2, 0, 2), (0, 0, 2, 2, 0, 1), (0, 0, 0, 0, 0, 0)], (0, 1, 0, 0, 0, 2),
    periods=(5, 5, 1), repeats=47, sms=3, blocks_per_sm=3, chunks=2,
)  # fmt: skip
PHASE = small(
    [(0, 1, 1, 0, 0, 2), (3, 0, 0, 0, 2, 0)], (0, 1),
    periods=(1, 1, 1), repeats=18, sms=1, blocks_per_sm=3, chunks=1,
)  # fmt: skip
HELD_UNTIL = small(
    [(0, 0, 0, 0, 6, 0), (8, 0, 0, 0, 9, 8), (0, 0, 0, 0, 11, 0)], (0, 1, 2, 0, 2, 1),
    periods=(1, 1, 1), repeats=11, sms=1, blocks_per_sm=3, chunks=1,
)  # fmt: skip
CHUNK = small(
    [(0, 0, 1, 3, 0, 0), (0, 0, 0, 0, 0, 0), (0, 1, 0, 0, 0, 0)], (2, 1, 0),
    periods=(1, 1, 1), repeats=12, sms=1, blocks_per_sm=3, chunks=3,
)  # fmt: skip


@given(small_works())
@example(UNTIL_BYTES_ARE_HERE)
@example(WORK_SINCE_THE_LAST_EVENT)
@example(ORDER_OF_SMS)
@example(PHASE)
@example(HELD_UNTIL)
@example(CHUNK)
@settings(max_examples=250, deadline=None)
def test_states_that_come_back_begin_equal_futures(work):
    result = simulate(work)
    if result.repetition != "slope":
        assert without_names(result) == without_names(simulate(work, repeat=False))


# Blocks of several classes in general: patterns are skipped at their mean cost.


def assert_near(work):
    result, reference = simulate(work), simulate(work, repeat=False)
    assert result.ticks == pytest.approx(reference.ticks, rel=0.003)
    assert result.dram_bytes == reference.dram_bytes
    # Where DRAM limits, the time does not tell when the loops, less and less in step, are done.
    margin = 0.004 if result.slot_ticks.get("dram", 0) < 0.1 * work.slots * result.ticks else 0.03
    for cause, ticks in reference.slot_ticks.items():
        share = (result.slot_ticks.get(cause, 0) - ticks) / (work.slots * reference.ticks)
        assert abs(share) < margin
    return result


@pytest.mark.parametrize("longest_first", [False, True])
@pytest.mark.parametrize("load_bytes", [0, 20_000])
@pytest.mark.parametrize(("tiles", "heads"), [(64, 70), (100, 48)])
def test_mixed_blocks_end_near_the_reference(tiles, heads, load_bytes, longest_first):
    assert_near(causal(tiles, heads, longest_first=longest_first, load_bytes=load_bytes))


@pytest.mark.slow
@pytest.mark.parametrize("longest_first", [False, True])
@pytest.mark.parametrize("load_bytes", [0, 4_000, 60_000, 150_000])
@pytest.mark.parametrize(
    ("tiles", "heads", "sms"), [(33, 230, 16), (128, 200, 33), (512, 126, 108)]
)
def test_mixed_blocks_of_many_waves_end_near_the_reference(
    tiles, heads, sms, load_bytes, longest_first
):
    work = causal(tiles, heads, sms=sms, longest_first=longest_first, load_bytes=load_bytes)
    assert 96 <= work.waves <= 500
    assert_near(work)


def test_short_mixed_kernels_are_simulated_whole():
    work = causal(64, 12)
    result = simulate(work)
    assert result.repetition == "none"
    assert without_names(result) == without_names(simulate(work, repeat=False))


@pytest.mark.parametrize(
    "work",
    [
        causal(128, 64, sms=16, load_bytes=20_000),
        causal(32, 300, sms=16, load_bytes=150_000),
        uniform(PAIRS, 130 * 32, blocks_per_sm=2),
        uniform(STREAMING, 100 * 128, blocks_per_sm=8),
    ],
)
@pytest.mark.parametrize("margin", [repeat.STEADY_MARGIN, 10**12])
def test_events_do_not_grow_with_repeats(work, margin):
    """Nor do they where nothing ever counts as steady."""
    with mock.patch.object(repeat, "STEADY_MARGIN", margin):
        few, many = (
            simulate(replace(work, repeats=work.repeats * times)).events for times in (1, 40)
        )
    assert many <= few + 8 * 2 * max(work.slots, len(work.pattern))


def test_skips_are_seen_in_the_timeline():
    work = uniform(IDLE_DRAM, 40 * 16)
    result = simulate(work, timeline=True)
    (skip,) = result.timeline.skips
    assert skip.blocks == result.repeated_blocks
    shown = {span.block for span in result.timeline.spans}
    missing = set(range(work.blocks)) - shown
    assert len(missing) == skip.blocks
    assert missing == set(range(min(missing), min(missing) + skip.blocks))
    late = [span for span in result.timeline.spans if span.end_ticks > skip.end_ticks]
    assert min(span.block for span in late) >= skip.blocks
    assert max(span.end_ticks for span in result.timeline.spans) == result.ticks
