from collections import Counter
from dataclasses import replace

import pytest

from fasim.hardware import load
from fasim.problem import Attention, Scenario
from fasim.readings.traffic import total
from fasim.simulator.contention import dram_bandwidth_bytes_per_s
from fasim.simulator.kernel_work import STREAM_RAMP_S
from fasim.simulator.phases import BLOCK_END_CYCLES, BLOCK_START_CYCLES
from fasim.simulator.work import TICKS_PER_SECOND
from tests.simulator.problems import planned, scaled, simulated

A100 = load("a100")
KERNEL_ONLY = Scenario("kernel", "cold", "short")


def work_of(problem, name="flash2", profile=A100, kernel=0, scenario=KERNEL_ONLY, **mapping):
    plan = planned(profile, problem, name)
    changed = replace(
        plan.kernels[kernel], mapping=replace(plan.kernels[kernel].mapping, **mapping)
    )
    kernels = (*plan.kernels[:kernel], changed, *plan.kernels[kernel + 1 :])
    return simulated(profile, replace(plan, kernels=kernels), scenario).kernels[kernel]


def dram_requests(kernel):
    """Bytes that the simulated blocks ask of the DRAM channel."""
    work = kernel.lowered.work
    return work.repeats * sum(
        count * (c.prologue_dram_bytes + c.loop_dram_bytes + c.epilogue_dram_bytes)
        for index, count in Counter(work.pattern).items()
        for c in (work.classes[index],)
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("seqlens", [(4096, 4096), (1000, 3000), (3000, 1000)])
def test_the_blocks_load_all_that_dram_reads(causal, seqlens):
    kernel = work_of(Attention(2, 16, *seqlens, 64, causal=causal))
    read = total(kernel.memory.dram).read_bytes
    assert dram_requests(kernel) == pytest.approx(read, rel=1e-3)


def test_a_streaming_kernel_carries_all_its_bytes():
    kernel = work_of(Attention(4, 16, 2048, 2048, 64), "standard", kernel=1)
    moved = total(kernel.memory.dram).total_bytes
    assert moved <= dram_requests(kernel) <= moved + kernel.lowered.work.blocks


def test_causal_blocks_are_as_long_as_what_they_see():
    kernel = work_of(Attention(1, 2, 1024, 1024, 64, causal=True))
    lengths = [c.trips // 1024 for c in kernel.lowered.work.classes]
    assert lengths == [1, 2, 3, 4, 5, 6, 7, 8]  # tiles of 128 × 128, the last one masked
    assert kernel.lowered.work.pattern == tuple(range(8))
    assert all(c.trips % 1024 for c in kernel.lowered.work.classes)  # masked tiles take longer
    heaviest_first = work_of(
        Attention(1, 2, 1024, 1024, 64, causal=True), block_order="longest-first"
    )
    assert heaviest_first.lowered.work.pattern == tuple(reversed(range(8)))


def test_a_block_that_sees_nothing_starts_and_stores():
    """Of 1024 queries the last 512 see the 512 keys."""
    kernel = work_of(Attention(1, 2, 1024, 512, 64, causal=True))
    empty = kernel.lowered.work.classes[0]
    assert (empty.trips, empty.prologue_dram_bytes, empty.loop) == (0, 0, None)
    assert [cause for cause, _ in empty.prologue] == ["launch"]
    assert kernel.lowered.work.pattern[:4] == (0, 0, 0, 0)


def test_prologue_and_epilogue_worked_out_by_hand():
    gpu = A100.gpu
    kernel = work_of(Attention(8, 27, 2048, 2048, 128))  # whole waves: 16 · 216 blocks
    (block,) = kernel.lowered.work.classes
    ps = TICKS_PER_SECOND / kernel.lowered.clock_hz
    prologue, epilogue = (dict(phase) for phase in (block.prologue, block.epilogue))
    assert prologue["launch"] == round(BLOCK_START_CYCLES * ps)
    assert prologue["dram"] == pytest.approx(gpu.dram.latency_s * TICKS_PER_SECOND, abs=1)
    tiles = (128 + 64) * 128 * 2  # Q and the first K, by two blocks
    assert prologue["l2"] == round(2 * tiles / gpu.l2.read_bytes_per_clock_per_sm * ps)
    assert epilogue["shared_memory"] == round(BLOCK_END_CYCLES * ps)
    stored = 128 * 128 * 2 + 128 * 4  # O and LSE
    assert epilogue["l2"] == round(stored / gpu.l2.write_bytes_per_clock_per_sm * ps)


def test_rates_beyond_three_blocks_are_in_proportion():
    kernel = work_of(Attention(4, 32, 4096, 4096, 32), "flash-attn-2", load("h100"), warps=4,
                     registers_per_thread=80)  # fmt: skip
    rates = kernel.lowered.rates
    assert len(rates) == kernel.occupancy.blocks_per_sm >= 5
    assert rates[4].cycles == pytest.approx(rates[2].cycles * 5 / 3)
    assert sum(rates[4].charges.values()) == pytest.approx(rates[4].cycles)


def test_a_dram_bound_kernel_takes_its_bytes_over_the_bandwidth():
    slow = scaled(A100, "dram.bandwidth", 0.1)
    kernel = work_of(Attention(8, 16, 2048, 2048, 64), "standard", slow, kernel=1)
    moved = total(kernel.memory.dram).total_bytes
    bandwidth = dram_bandwidth_bytes_per_s(slow.gpu, kernel.memory.dram)
    assert kernel.time_s == pytest.approx(moved / bandwidth + STREAM_RAMP_S, rel=0.01)


def test_a_thin_last_wave_has_dram_to_itself():
    """Copies of 1.13 waves once took as long as two: more SMs made them slower."""
    problem = Attention(16, 10, 475, 475, 96)
    few, many = load("l40s"), scaled(load("l40s"), "sm_count", 8)
    before, after = (work_of(problem, "pytorch", profile) for profile in (few, many))
    assert before.result.waves > 8
    assert 1.1 < after.result.waves < 1.2
    assert after.time_s <= before.time_s


def test_bursts_of_a_thin_last_wave_are_no_longer_than_its_bytes():
    """QKᵀ on 568 SMs and on four times as many, bound by the writes of S."""
    problem = Attention(2, 4, 3386, 3386, 64, kv_heads=1)
    few, many = (scaled(load("l40s"), "sm_count", factor) for factor in (4, 16))
    before, after = (work_of(problem, "standard", profile) for profile in (few, many))
    assert after.result.waves < 1.5
    written = after.memory.dram["S"].write_bytes
    assert after.time_s >= written / dram_bandwidth_bytes_per_s(many.gpu, after.memory.dram)
    assert after.time_s <= 1.03 * before.time_s


def test_sustained_work_runs_at_the_clock_its_pipes_allow():
    h100 = load("h100")
    problem = Attention(4, 32, 4096, 4096, 128)
    short, timed, sustained = (
        work_of(problem, "flash-attn-2", h100, scenario=Scenario("kernel", "cold", run))
        for run in ("short", 5e-3, "sustained")
    )
    assert short.lowered.clock_hz == h100.gpu.clock.tensor_hz
    assert sustained.lowered.clock_hz < timed.lowered.clock_hz < short.lowered.clock_hz
    assert sustained.lowered.rates == short.lowered.rates  # cycles do not know the clock
