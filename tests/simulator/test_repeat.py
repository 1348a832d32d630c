from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasim.simulator.gpu_simulation import simulate
from fasim.simulator.work import BlockClass, KernelWork, LoopRate

NS = 1000
ITERATION = 1024
BANDWIDTH = 400 * 10**9


def rate(*periods):
    return LoopRate(periods, tuple((("tensor", p - p // 3), ("sfu", p // 3)) for p in periods))


def uniform(block, blocks, sms=16, blocks_per_sm=1):
    return KernelWork("k", (block,), (0,), blocks, sms, blocks_per_sm, BANDWIDTH, 2500 * NS)


def causal(tiles, heads, *, sms=16, blocks_per_sm=2, longest_first=False, load_bytes=0):
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
    return KernelWork("k", classes, tuple(order), heads, sms, blocks_per_sm, BANDWIDTH)


def without_names(result):
    return result.ticks, result.slot_ticks, result.dram_bytes


times = st.integers(0, 3_000_000)
byte_counts = st.one_of(st.just(0), st.integers(1, 300_000))


@st.composite
def uniform_works(draw):
    """From idle DRAM to far more bytes than it can move; ragged last waves."""
    blocks_per_sm = draw(st.integers(1, 4))
    first = draw(st.integers(1, 2_000_000))
    periods = [first]
    for _ in range(3):
        periods.append(periods[-1] + draw(st.integers(0, first)))
    trips = draw(st.one_of(st.just(0), st.integers(1, 20 * ITERATION)))
    block = BlockClass(
        "b", (("l2", draw(times)),), draw(byte_counts), rate(*periods), trips,
        draw(byte_counts) if trips else 0, (("l2", draw(times)),), draw(byte_counts),
    )  # fmt: skip
    sms = draw(st.integers(1, 6))
    slots = sms * blocks_per_sm
    blocks = draw(st.integers(12 * slots, 30 * slots))
    return uniform(block, blocks, sms, blocks_per_sm)


@given(uniform_works())
@settings(max_examples=250, deadline=None)
def test_equal_blocks_end_on_the_tick_of_the_reference(work):
    assert without_names(simulate(work)) == without_names(simulate(work, repeat=False))


IDLE_DRAM = BlockClass("idle", (("l2", 900_001),), 0, rate(2_300_007), 64 * ITERATION)
SOME_DRAM = BlockClass(
    "some", (("l2", 900_001),), 4096, rate(2_300_007), 64 * ITERATION, 65_536, (), 4096
)
DRAM_BOUND = BlockClass("bound", (), 4096, rate(2_300_007), ITERATION, 2**20, (), 9000)
STREAMING = BlockClass("stream", (("fp32", 70_000),), 4096, None, 0, 0, (), 4096)
PAIRS = BlockClass("pairs", (("l2", 900_001),), 0, rate(2_300_007, 3_900_011), 64 * ITERATION)


@pytest.mark.parametrize(
    ("block", "blocks_per_sm"),
    [(IDLE_DRAM, 1), (SOME_DRAM, 1), (DRAM_BOUND, 1), (STREAMING, 8), (PAIRS, 2)],
)
@pytest.mark.parametrize("extra", [0, 1, 11])
def test_states_come_back_and_the_blocks_between_are_skipped(block, blocks_per_sm, extra):
    work = uniform(block, 40 * 16 * blocks_per_sm + extra, blocks_per_sm=blocks_per_sm)
    result = simulate(work)
    assert result.repetition == "exact"
    assert result.repeated_waves > 20
    assert without_names(result) == without_names(simulate(work, repeat=False))


@pytest.mark.parametrize("longest_first", [False, True])
@pytest.mark.parametrize("load_bytes", [0, 20_000])
@pytest.mark.parametrize(("tiles", "heads"), [(64, 60), (100, 48), (256, 20)])
def test_mixed_blocks_end_near_the_reference(tiles, heads, load_bytes, longest_first):
    work = causal(tiles, heads, longest_first=longest_first, load_bytes=load_bytes)
    result, reference = simulate(work), simulate(work, repeat=False)
    assert result.repeated_waves > 50
    assert result.ticks == pytest.approx(reference.ticks, rel=0.003)
    assert result.dram_bytes == reference.dram_bytes
    for cause, ticks in reference.slot_ticks.items():
        share = (result.slot_ticks[cause] - ticks) / (work.slots * reference.ticks)
        assert abs(share) < 0.003


def test_equal_blocks_that_keep_their_phases_still_settle():
    """First loads come at all times, so pairs differ and SMs have periods of their own."""
    block = replace(PAIRS, prologue_dram_bytes=16_384, epilogue_dram_bytes=16_384)
    work = uniform(block, 130 * 32, blocks_per_sm=2)
    result, reference = simulate(work), simulate(work, repeat=False)
    assert result.ticks == pytest.approx(reference.ticks, rel=0.003)
    assert result.repetition != "none"


def test_short_mixed_kernels_are_simulated_whole():
    work = causal(64, 12)
    result = simulate(work)
    assert result.repetition == "none"
    assert without_names(result) == without_names(simulate(work, repeat=False))


@pytest.mark.parametrize(
    "work",
    [
        causal(128, 64, sms=32, load_bytes=20_000),
        uniform(replace(PAIRS, prologue_dram_bytes=16_384), 130 * 32, blocks_per_sm=2),
        uniform(STREAMING, 100 * 128, blocks_per_sm=8),
    ],
)
def test_events_do_not_grow_with_repeats(work):
    events = [simulate(replace(work, repeats=work.repeats * times)).events for times in (1, 40)]
    assert events[1] <= events[0] + 8 * 2 * max(work.slots, len(work.pattern))


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
