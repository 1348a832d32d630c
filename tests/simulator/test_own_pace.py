"""The fast path of mixed grids: where it is taken, and that it ends on the same tick."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fasim
from fasim.simulator.gpu_simulation import simulate
from fasim.simulator.gpu_state import GpuState
from fasim.simulator.own_pace import OwnPace, goes_at_its_own_pace
from fasim.simulator.work import BlockClass, KernelWork, LoopRate


def loop_rate(*periods: int) -> LoopRate:
    return LoopRate(periods, tuple((("tensor", period),) for period in periods))


@st.composite
def mixed_works(draw: st.DrawFn) -> KernelWork:
    """Blocks of several lengths, some of them empty, on idle and on busy DRAM.

    SMs in step act in the same tick, and in a known order. Ticks are many, so that others hardly
    ever do: whose turn it is then hangs on events long past, and either order will do.
    """
    ticks, loads = st.integers(0, 40_000), st.integers(0, 90_000)
    first = draw(st.integers(1000, 30_000))
    rate = loop_rate(first, first + draw(ticks), first + 40_000 + draw(ticks))
    classes = []
    for trips in draw(st.lists(st.integers(0, 6), min_size=2, max_size=5, unique=True)):
        classes.append(
            BlockClass(
                f"{trips} iterations",
                prologue=(("launch", draw(ticks)),),
                prologue_dram_bytes=draw(loads),
                loop=rate if trips else None,
                trips=trips * 1024,
                loop_dram_bytes=draw(loads) if trips else 0,
                epilogue=(("l2", draw(ticks)),),
            )
        )
    length = draw(st.integers(2, 8))
    indices = st.integers(0, len(classes) - 1)
    pattern = [0, 1, *draw(st.lists(indices, min_size=length - 2, max_size=length - 2))]
    return KernelWork(
        name="mixed",
        classes=tuple(classes),
        pattern=tuple(draw(st.permutations(pattern))),
        repeats=draw(st.integers(1, 40)),
        sm_count=draw(st.integers(1, 6)),
        blocks_per_sm=draw(st.integers(1, 3)),
        dram_bandwidth_bytes_per_s=10**12,
        launch_ticks=draw(ticks),
        loop_chunks=1,
    )


@given(mixed_works())
@settings(max_examples=400, deadline=None)
def test_it_ends_on_the_tick_of_the_reference(work: KernelWork) -> None:
    gpu = GpuState(work)
    if not goes_at_its_own_pace(work, gpu):
        return
    reference = simulate(work, repeat=False)
    assert OwnPace(work, gpu).run() == reference.ticks


def causal(batch: int, gpu: str = "h100") -> KernelWork:
    """FlashAttention-2 on a causal problem."""
    problem = fasim.Attention(batch, 8, 4096, 4096, 128, causal=True)
    prediction = fasim.predict(problem, fasim.load(gpu), schedule="flash2")
    assert prediction.simulation is not None
    return prediction.simulation.kernels[0].lowered.work


@pytest.mark.parametrize(("batch", "gpu"), [(14, "h100"), (40, "a100"), (16, "rtx4090")])
def test_causal_grids_take_it_and_lose_nothing(batch: int, gpu: str) -> None:
    work = causal(batch, gpu)
    assert 12 <= work.waves < 128
    fast, reference = simulate(work), simulate(work, repeat=False)
    assert fast.events < 0.8 * reference.events
    assert fast.slot_ticks == reference.slot_ticks
    assert fast.ticks == reference.ticks


def test_where_it_does_not_apply() -> None:
    work = causal(14)
    assert goes_at_its_own_pace(work, GpuState(work))
    uniform = replace(work, pattern=(0,))
    chunked = replace(work, loop_chunks=4)
    writing = replace(
        work, classes=tuple(replace(c, epilogue_dram_bytes=100) for c in work.classes)
    )
    for other in (uniform, chunked, writing):
        assert not goes_at_its_own_pace(other, GpuState(other))
