from dataclasses import replace

import pytest

from fasim.hardware import load
from fasim.problem import Attention
from fasim.schedules.catalog import plan
from fasim.schedules.record import record
from fasim.simulator.streaming import ISSUE_EFFICIENCY, block_cycles

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
