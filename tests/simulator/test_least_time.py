"""The bound on a kernel's time against its simulation."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasim.simulator.gpu_simulation import simulate
from fasim.simulator.least_time import least_ticks
from fasim.simulator.work import BlockClass, KernelWork, LoopRate

NS = 1000
ITERATION = 1024
BANDWIDTH = 400 * 10**9


def rate(*periods):
    return LoopRate(periods, tuple((("tensor", period),) for period in periods))


ticks = st.one_of(st.just(0), st.integers(1, 2000 * NS))
moved = st.one_of(st.just(0), st.integers(1, 100_000))


@st.composite
def works(draw):
    """Uniform and mixed grids, from a part of a wave to many, from idle DRAM to far too slow."""
    blocks_per_sm = draw(st.integers(1, 4))
    loop = rate(*draw(st.lists(st.integers(1, 900 * NS), min_size=4, max_size=4)))
    classes = []
    for index in range(draw(st.integers(1, 3))):
        trips = draw(st.integers(0, 20 * ITERATION))
        classes.append(
            BlockClass(
                str(index), (("l2", draw(ticks)),), draw(moved), loop, trips,
                draw(moved) if trips else 0, (("l2", draw(ticks)),), draw(moved),
            )
        )  # fmt: skip
    repeats, sms = draw(st.integers(1, 60)), draw(st.integers(1, 5))
    return KernelWork(
        "k", tuple(classes), tuple(range(len(classes))), repeats, sms, blocks_per_sm, BANDWIDTH,
        draw(ticks), draw(st.integers(1, 4)),
    )  # fmt: skip


@given(works())
@settings(max_examples=300, deadline=None)
def test_no_kernel_beats_its_bound(work):
    assert least_ticks(work) <= simulate(work, repeat=False).ticks
    assert least_ticks(work) <= simulate(work).ticks


FIXED = (("l2", 300 * NS),)
PAIRED = BlockClass("pair", FIXED, 0, rate(700 * NS, 1000 * NS), 4 * ITERATION, 0, FIXED)
ALONE = BlockClass("alone", FIXED, 0, rate(700 * NS), 4 * ITERATION, 0, FIXED)
MOVING = BlockClass("moving", FIXED, 400_000, rate(NS), ITERATION, 400_000, FIXED)


@pytest.mark.parametrize(
    ("block", "blocks_per_sm", "blocks", "off"),
    [
        pytest.param(ALONE, 1, 1, 1e-6, id="a block"),
        pytest.param(PAIRED, 2, 8, 1e-6, id="a wave"),
        pytest.param(ALONE, 1, 4 * 7, 1e-6, id="waves, one block an SM"),
        pytest.param(ALONE, 1, 4 * 7 + 1, 1e-6, id="a last wave of one block"),
        pytest.param(PAIRED, 2, 8 * 100, 0.07, id="waves that overlap"),
        pytest.param(MOVING, 1, 4 * 100, 0.04, id="DRAM"),
    ],
)
def test_the_bound_is_close(block, blocks_per_sm, blocks, off):
    work = KernelWork("k", (block,), (0,), blocks, 4, blocks_per_sm, BANDWIDTH, 2500 * NS)
    assert least_ticks(work) == pytest.approx(simulate(work).ticks, rel=off)
