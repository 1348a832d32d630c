"""Blocks of warp-specialised kernels on a GPU: what their starts, ends and order cost."""

from dataclasses import replace

import pytest

from fasim.hardware import load
from fasim.problem import Attention, Scenario
from fasim.readings.traffic import traffic
from fasim.schedules import catalog
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Plan
from fasim.simulator.loop_rates import stream_rate
from fasim.simulator.lowering import lower, main_loop
from fasim.simulator.phases import BLOCK_END_CYCLES, BLOCK_START_CYCLES
from fasim.simulator.simulate import SimulatedKernel, simulate
from fasim.simulator.work import TICKS_PER_SECOND, BlockClass

GPU = load("h100").gpu
FULL = Attention(4, 16, 4096, 4096, 128)  # 2048 tiles, 15.5 waves
CAUSAL = replace(FULL, batch=1, causal=True)  # 512 tiles, 3.9 waves


def simulated(problem: Attention, **changes: object) -> SimulatedKernel:
    plan = catalog.plan(problem, GPU, "flash3")
    (kernel,) = plan.kernels
    mapping: Mapping = replace(kernel.mapping, **changes)  # type: ignore[arg-type]
    plan = Plan("flash3", None, (replace(kernel, mapping=mapping),), plan.tile)
    (found,) = simulate(plan, traffic(plan.kernels), GPU, Scenario(launch="kernel")).kernels
    return found


def charged(kernel: SimulatedKernel, phase: str, cause: str) -> float:
    """Cycles of a phase of the first class of blocks that are charged to a cause."""
    block: BlockClass = kernel.lowered.work.classes[0]
    charges = {"prologue": block.prologue, "epilogue": block.epilogue}[phase]
    ticks = sum(t for name, t in charges if name == cause)
    return ticks * kernel.lowered.clock_hz / TICKS_PER_SECOND


def test_all_but_the_first_start_and_the_last_end_of_a_slot_are_half_hidden() -> None:
    kernel = simulated(FULL)
    waves = 2048 / 132
    exposed = (1 + 0.5 * (waves - 1)) / waves
    start = exposed * BLOCK_START_CYCLES  # charges are whole ticks
    assert charged(kernel, "prologue", "launch") == pytest.approx(start, rel=1e-5)
    end = exposed * BLOCK_END_CYCLES
    assert charged(kernel, "epilogue", "shared_memory") == pytest.approx(end, rel=1e-5)
    for whole in (
        simulated(FULL, persistent=False),
        simulated(replace(FULL, batch=1, heads=4, kv_heads=4)),
    ):
        assert charged(whole, "prologue", "launch") == pytest.approx(BLOCK_START_CYCLES, rel=1e-5)
    assert simulated(FULL, persistent=False).time_s > kernel.time_s


def test_the_last_delayed_product_has_no_tile_beside_it() -> None:
    narrow = replace(FULL, head_dim=64)  # of 128 the delay hides nothing that turns do not
    kernel = simulated(narrow)
    record = kernel.record
    in_turn = replace(record.kernel, mapping=replace(record.kernel.mapping, delayed=()))
    plain = lower(replace(record, kernel=in_turn), GPU, main_loop(record)).plain
    once = stream_rate(plain, 1, GPU).cycles - kernel.lowered.rates[0].cycles
    assert once > 100
    assert charged(kernel, "epilogue", "tensor") == pytest.approx(once, rel=1e-3)
    assert charged(simulated(narrow, delayed=()), "epilogue", "tensor") == 0


def test_longest_first_shortens_the_tail() -> None:
    ordered = simulated(CAUSAL)
    work = ordered.lowered.work
    trips = [work.classes[index].trips for index in work.pattern]
    assert trips == sorted(trips, reverse=True)
    assert trips[0] > trips[-1]
    in_grid_order = simulated(CAUSAL, block_order="grid")
    assert ordered.time_s < 0.95 * in_grid_order.time_s
    tail = ordered.result.time_by_cause_s["tail"] / ordered.time_s
    assert tail < 0.05
