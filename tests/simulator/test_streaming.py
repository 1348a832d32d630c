from dataclasses import replace

import pytest

from fasim.hardware import load
from fasim.problem import Attention, Scenario
from fasim.readings.traffic import traffic
from fasim.schedules.catalog import plan
from fasim.schedules.plan import Options
from fasim.schedules.record import record
from fasim.simulator.simulate import simulate
from fasim.simulator.streaming import ISSUE_EFFICIENCY, block_cycles, chained_loads

GPU = load("a100").gpu
PROBLEM = Attention(1, 1, 2048, 2048, 64)


def softmax_cycles(gpu=GPU, **mapping):
    kernel = plan(PROBLEM, gpu, "standard").kernels[1]
    return block_cycles(record(replace(kernel, mapping=replace(kernel.mapping, **mapping))), gpu)


def test_the_instructions_an_element_are_those_of_the_compiled_kernel():
    cycles = softmax_cycles(instructions_per_element=48.0)
    slots = 32 * 4 * ISSUE_EFFICIENCY  # instructions of threads that an SM issues a cycle
    assert cycles.cycles == pytest.approx(2048 * 48 / slots)
    assert cycles.cause == "issue"


def test_without_a_compiled_count_the_program_is_counted():
    """A row of 2048 scores: each is loaded, scaled, exponentiated, summed, stored …"""
    cycles = softmax_cycles(instructions_per_element=None)
    assert cycles.cause == "issue"
    # cast, max, ·, −, exp2, +, ·, half a cast; two bytes in and out by 16-byte instructions.
    per_score = 1 + 1 + 2 + 1 + 1 + 1 + 0.5 + 2 * 2 / 16
    assert cycles.cycles == pytest.approx(2048 * per_score / (128 * ISSUE_EFFICIENCY), rel=0.3)


def test_a_narrow_pipe_takes_over():
    narrow = GPU.model_copy(update={"sfu": GPU.sfu.model_copy(update={"lanes": 1})})
    cycles = softmax_cycles(narrow)
    assert cycles.cause == "sfu"
    assert cycles.cycles == pytest.approx(2048, rel=0.01)  # one exp2 a score, one a cycle


def test_loads_wait_for_each_other_where_one_is_used_before_the_next():
    """A copy loads once; a cache writer stores K before it loads V, and looks up a slot first."""
    standard = plan(PROBLEM, GPU, "standard").kernels
    assert chained_loads(record(standard[1])) == 1  # softmax: a row, then all the rest
    serving = Options(page_size=16, writes_kv=True)
    problem = replace(PROBLEM, batch=64, heads=8, kv_heads=2, head_dim=128)
    writer = record(plan(problem, GPU, None, "flash-attn-2", serving).kernels[0])
    assert writer.kernel.name == "write_cache"
    assert chained_loads(writer) == 2
    assert block_cycles(writer, GPU).chain == 3


@pytest.mark.parametrize(("kv_heads", "warps", "held"), [(1, 4, 9), (2, 8, 4), (4, 16, 2)])
def test_tokens_under_way_are_bound_by_the_registers_of_the_cache_writer(kv_heads, warps, held):
    """Many tokens: a wave takes a warp's own 886 cycles and three latencies at least."""
    serving = Options(page_size=16, writes_kv=True)
    problem = Attention(1024, 8, 512, 512, 128, kv_heads=kv_heads)
    planned = plan(problem, GPU, None, "flash-attn-2", serving)
    assert planned.kernels[0].mapping.warps == warps
    one = replace(planned, kernels=planned.kernels[:1])
    (written,) = simulate(one, traffic(one.kernels), GPU, Scenario(launch="kernel")).kernels
    assert written.occupancy.blocks_per_sm == held
    waves = problem.batch * problem.seqlen_q / (held * GPU.sm_count)
    life = 886 + 3 * GPU.dram.latency_s * written.lowered.clock_hz
    assert written.time_s >= 0.95 * waves * life / written.lowered.clock_hz
