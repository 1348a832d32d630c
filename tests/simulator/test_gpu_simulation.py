"""Traces worked out by hand. DRAM moves one byte a tick in all of them."""

from dataclasses import replace
from itertools import pairwise
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simpy.events import Timeout

from fasim.simulator import gpu_simulation
from fasim.simulator.gpu_simulation import simulate_chain
from fasim.simulator.work import TICKS_PER_SECOND, BlockClass, KernelWork, LoopRate

ITERATION = 1024


def simulate(work, **options):
    """Refuses to go on for ever: every event moves some block on, or finds out why it waits."""
    most = 4 * work.sm_count + work.blocks * (6 + 3 * work.loop_chunks)
    events = 0

    def timeout(env, delay):
        nonlocal events
        events += 1
        assert events <= most, f"more than {most} events for {work.blocks} blocks"
        return Timeout(env, delay)

    with mock.patch.object(gpu_simulation, "Timeout", timeout):
        return gpu_simulation.simulate(work, **options)


def kernel(*classes, blocks=1, sms=1, blocks_per_sm=1, **fields):
    fields = {"pattern": tuple(range(len(classes))), "repeats": blocks, **fields}
    return KernelWork(
        "k", classes, sm_count=sms, blocks_per_sm=blocks_per_sm,
        dram_bandwidth_bytes_per_s=TICKS_PER_SECOND, **fields,
    )  # fmt: skip


def rate(*periods):
    return LoopRate(periods, tuple((("tensor", period),) for period in periods))


def test_one_block_on_one_sm():
    loop = LoopRate((20,), ((("tensor", 12), ("sfu", 8)),))
    block = BlockClass(
        "b",
        prologue=(("l2", 100),),
        prologue_dram_bytes=150,  # here at 10 + 150, 50 after the fixed part
        loop=loop,
        trips=3 * ITERATION + 512,  # the half iteration: 10 ticks, all of them tensor
        epilogue=(("barrier", 30),),
        epilogue_dram_bytes=20,  # out before the fixed part is over
    )
    result = simulate(kernel(block, launch_ticks=10))
    assert result.ticks == 10 + 150 + 70 + 30
    assert result.slot_ticks == {
        "launch": 10, "l2": 100, "dram": 50, "tensor": 36 + 10, "sfu": 24, "barrier": 30,
    }  # fmt: skip
    assert result.dram_bytes == {"prologue": 150, "loop": 0, "epilogue": 20}


def test_a_phase_of_no_length_takes_no_time():
    assert simulate(kernel(BlockClass("b", loop=rate(10), trips=ITERATION), blocks=3)).ticks == 30
    assert simulate(kernel(BlockClass("b"), blocks=3, sms=2, launch_ticks=4)).ticks == 4


def test_two_blocks_share_an_sm():
    """A computes alone in 40–80, with B until 176; B ends alone at 216."""
    a, b = (
        BlockClass(name, prologue=(("l2", ticks),), loop=rate(10, 16), trips=10 * ITERATION)
        for name, ticks in (("a", 40), ("b", 80))
    )
    result = simulate(kernel(a, b, blocks_per_sm=2))
    assert result.ticks == 216
    assert result.slot_ticks == {"l2": 40 + 80, "tensor": 136 + 136, "tail": 40}


def test_a_loop_ends_on_the_tick_after_its_work_is_done():
    """A is alone in 3–6; its 7/10 left take 9.8 ticks at T(2). B then has 4/14 left: 2.9."""
    a, b = (
        BlockClass(name, prologue=(("l2", ticks),), loop=rate(10, 14), trips=ITERATION)
        for name, ticks in (("a", 3), ("b", 6))
    )
    result = simulate(kernel(a, b, blocks_per_sm=2))
    assert result.ticks == 6 + 10 + 3
    assert result.slot_ticks == {"l2": 3 + 6, "tensor": (3 + 10) + (10 + 3), "tail": 3}


@pytest.mark.parametrize("machine", [{"sms": 2}, {"blocks_per_sm": 2}])
def test_requests_of_one_tick_arrive_together(machine):
    """Reads of 30 and 50 are both here at 80, writes of 10 and 0 out at 90 + 10.

    A is held for 45 ticks, which its own 30 would not exceed; B for none.
    """
    a = BlockClass("a", (("l2", 45),), 30, rate(10, 10), ITERATION, epilogue_dram_bytes=10)
    b = BlockClass("b", (), 50, rate(10, 10), ITERATION)
    result = simulate(kernel(a, b, **machine), timeline=True)
    assert result.ticks == 100
    assert result.slot_ticks == {"l2": 45, "tensor": 20, "dram": 35 + 80 + 10, "tail": 10}
    phases = [(s.block, s.phase, s.start_ticks, s.end_ticks) for s in result.timeline.spans]
    assert sorted(phases) == [
        (0, "dram", 45, 80), (0, "dram", 90, 100), (0, "loop", 80, 90), (0, "prologue", 0, 45),
        (1, "dram", 0, 80), (1, "loop", 80, 90),
    ]  # fmt: skip


def test_requests_of_later_ticks_queue_behind():
    """A asks for 60 at tick 10, B and C for 30 each at tick 12: A has them at 70, they at 130."""
    a, b = (
        BlockClass(name, (("l2", ticks),), 0, rate(10), 2 * ITERATION, loads)
        for name, ticks, loads in (("a", 10, 60), ("b", 12, 30))
    )
    result = simulate(kernel(a, b, pattern=(0, 1, 1), sms=3, loop_chunks=1))
    assert result.ticks == 130
    assert result.slot_ticks == {
        "l2": 10 + 12 + 12, "tensor": 60, "dram": 40 + 98 + 98, "tail": 60,
    }  # fmt: skip


def test_chunks_shorter_than_a_tick_wait_for_what_their_tick_asks_for():
    """Five chunks of a fifth of a tick; the third and the last load a byte.

    Tick 1 does the work of the first three, and waits for both SMs' bytes until 3; the last
    is over by 4, its bytes are here at 6.
    """
    block = BlockClass("b", loop=rate(10), trips=ITERATION // 10, loop_dram_bytes=2)
    result = simulate(kernel(block, blocks=2, sms=2, loop_chunks=5))
    assert result.slot_ticks == {"tensor": 2 + 2, "dram": 4 + 4}
    assert result.ticks == 6


def test_a_loop_bound_by_dram():
    """Four chunks: 10 ticks of compute hide in each transfer of 100."""
    block = BlockClass("b", loop=rate(10), trips=4 * ITERATION, loop_dram_bytes=400)
    result = simulate(kernel(block))
    assert result.ticks == 400
    assert result.slot_ticks == {"tensor": 40, "dram": 360}


def test_a_loop_bound_by_compute_hides_its_loads():
    block = BlockClass("b", loop=rate(100), trips=4 * ITERATION, loop_dram_bytes=396)
    assert simulate(kernel(block)).slot_ticks == {"tensor": 400}


def test_a_block_that_waits_for_bytes_leaves_the_pipes_to_the_other():
    """Loads of 60 are here at 60; the first block's iteration ends at 20, long before."""
    block = BlockClass("b", loop=rate(10, 20), trips=ITERATION, loop_dram_bytes=60)
    quick = BlockClass("q", loop=rate(10, 20), trips=2 * ITERATION)
    result = simulate(kernel(block, quick, blocks_per_sm=2, loop_chunks=1))
    # Both compute in 0–20; then the other one has an iteration left, alone: 20–30.
    assert result.ticks == 60
    assert result.slot_ticks == {"tensor": 20 + 30, "dram": 40, "tail": 30}


def test_a_wave_reads_and_writes_together():
    """Reads are here at 120, loops end at 221, writes are out at 421; then the same again."""
    block = BlockClass(
        "b", prologue_dram_bytes=30, loop=rate(101), trips=ITERATION, epilogue_dram_bytes=50
    )
    assert simulate(kernel(block, blocks=4, sms=4)).ticks == 421
    assert simulate(kernel(block, blocks=8, sms=4)).ticks == 842


def test_the_next_block_reads_behind_the_writes_of_others():
    """Reads are here at 60. Writes: short in 160–210, long, ready at 190, in 210–260.

    The third block starts at 210; its read is here at 290, its loop ends at 390, its write at 440.
    """
    short, long = (
        BlockClass(name, (), 30, rate(period), ITERATION, 0, (), 50)
        for name, period in (("short", 100), ("long", 130))
    )
    result = simulate(kernel(short, long, pattern=(0, 1, 0), sms=2))
    assert result.ticks == 440
    assert result.slot_ticks == {
        "tensor": 100 + 130 + 100, "dram": (60 + 50) + (60 + 70) + (80 + 50), "tail": 180,
    }  # fmt: skip


def test_slots_without_a_block_are_the_tail():
    block = BlockClass("b", prologue=(("fp32", 100),))
    result = simulate(kernel(block, blocks=3, sms=2, blocks_per_sm=2, launch_ticks=7))
    assert result.ticks == 107
    assert result.slot_ticks == {"launch": 28, "fp32": 300, "tail": 100}
    assert result.waves == 0.75


def test_blocks_are_issued_over_sms_first_then_to_the_slot_that_is_free():
    long = BlockClass("long", prologue=(("fp32", 100),))
    short = BlockClass("short", prologue=(("fp32", 10),))
    work = kernel(long, short, long, long, short, sms=2, blocks_per_sm=2)
    spans = simulate(work, timeline=True).timeline.spans
    places = {span.block: (span.sm, span.slot) for span in spans}
    assert places == {0: (0, 0), 1: (1, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0)}


def test_a_chain_runs_kernels_one_after_another():
    first = kernel(BlockClass("b", prologue=(("fp32", 100),)), launch_ticks=5)
    second = kernel(BlockClass("c", prologue=(("l2", 40),)), sms=2)
    chain = simulate_chain([first, second], timeline=True)
    assert chain.ticks == 105 + 40
    assert sum(chain.time_by_cause_s.values()) == pytest.approx(chain.time_s)
    assert chain.time_by_cause_s["tail"] == pytest.approx(20e-12)
    starts = [event["ts"] for event in chain.chrome_trace()["traceEvents"] if event["ph"] == "X"]
    assert starts == [5e-6, 105e-6]


charges = st.integers(0, 300).map(lambda ticks: (("l2", ticks),))
amounts = st.one_of(st.just(0), st.integers(1, 400))


@st.composite
def works(draw):
    blocks_per_sm = draw(st.integers(1, 3))
    periods = sorted(draw(st.lists(st.integers(1, 90), min_size=3, max_size=3)))
    loop = LoopRate(
        tuple(periods), tuple((("tensor", p - p // 3), ("sfu", p // 3)) for p in periods)
    )
    classes = []
    for name in "abc"[: draw(st.integers(1, 3))]:
        trips = draw(st.integers(0, 12 * ITERATION))
        classes.append(
            BlockClass(
                name, draw(charges), draw(amounts), loop, trips,
                draw(amounts) if trips else 0, draw(charges), draw(amounts),
            )
        )  # fmt: skip
    sms = draw(st.integers(1, 5))
    pattern = draw(st.lists(st.integers(0, len(classes) - 1), min_size=1, max_size=6))
    repeats = 1 + draw(st.integers(0, 3 * sms * blocks_per_sm)) // len(pattern)
    return kernel(
        *classes, blocks=repeats, sms=sms, blocks_per_sm=blocks_per_sm,
        pattern=tuple(pattern), launch_ticks=draw(st.integers(0, 50)),
        loop_chunks=draw(st.integers(1, 5)),
    )  # fmt: skip


@given(works())
@settings(max_examples=200, deadline=None)
def test_every_tick_of_every_slot_has_a_cause_and_dram_bounds_hold(work):
    result = simulate(work, repeat=False, timeline=True)
    repeated = simulate(work)
    assert sum(repeated.slot_ticks.values()) == work.slots * repeated.ticks
    assert sum(result.slot_ticks.values()) == work.slots * result.ticks
    assert min(result.slot_ticks.values(), default=0) >= 0
    assert result.ticks >= work.launch_ticks + sum(result.dram_bytes.values())
    assert result.dram_bytes["epilogue"] == work.repeats * sum(
        work.classes[index].epilogue_dram_bytes for index in work.pattern
    )
    # The timeline tells the same story: all but launch and tail, on slots one block at a time.
    spans = sorted(result.timeline.spans, key=lambda span: (span.sm, span.slot, span.start_ticks))
    shown = sum(span.end_ticks - span.start_ticks for span in spans)
    apart = result.slot_ticks.get("launch", 0) + result.slot_ticks.get("tail", 0)
    assert shown + apart == work.slots * result.ticks
    for before, after in pairwise(spans):
        if (before.sm, before.slot) == (after.sm, after.slot):
            assert before.end_ticks <= after.start_ticks


@st.composite
def machines(draw, least_waves, most_waves):
    """A kernel on some SMs, and on more."""
    fewer = draw(works())
    more = fewer.sm_count + draw(st.integers(1, 6))
    blocks = more * fewer.blocks_per_sm * draw(st.integers(least_waves, most_waves))
    fewer = replace(fewer, repeats=-(-blocks // len(fewer.pattern)))
    return fewer, replace(fewer, sm_count=more)


@given(machines(12, 20))
@settings(max_examples=150, deadline=None)
def test_more_sms_are_never_slower(kernels):
    """By more than the 3 % that in-order issue is worth."""
    fewer, more = (simulate(work).ticks for work in kernels)
    assert more <= 1.03 * fewer


@given(machines(1, 4))
@settings(max_examples=150, deadline=None)
def test_with_few_waves_more_sms_can_cost_a_last_wave(kernels):
    """Blocks that were in the last full wave may come to run on their own: one block's time."""
    fewer, more = (simulate(work).ticks for work in kernels)
    alone = max(
        simulate(
            replace(kernels[0], pattern=(index,), repeats=kernels[0].blocks_per_sm, sm_count=1)
        ).ticks
        for index in set(kernels[0].pattern)
    )
    assert more <= max(1.03 * fewer, fewer + alone)
