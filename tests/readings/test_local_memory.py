"""Spilled registers move bytes: once a block, and accumulators in every iteration."""

from __future__ import annotations

from fasim.hardware import load
from fasim.problem import Attention
from fasim.readings.local_memory import local_bytes
from fasim.schedules import catalog
from fasim.schedules.plan import Options
from fasim.schedules.record import record
from fasim.schedules.residency import block_use

PROBLEM = Attention(1, 2, 1024, 1024, 128)


def test_what_spills_beside_accumulators_moves_once_a_block() -> None:
    (kernel,) = catalog.plan(PROBLEM, load("a100").gpu, implementation="flash-attn-2").kernels
    # 280 registers a thread: 25 over the limit, 128 threads, 8 row tiles of 2 heads.
    assert local_bytes(record(kernel)) == 2 * 4 * 25 * 128 * (8 * 2)


def test_accumulators_over_the_limit_move_in_every_iteration() -> None:
    plan = catalog.plan(PROBLEM, load("a100").gpu, "standard", options=Options((512, 512)))
    query_key = record(plan.kernels[0])
    # 512 × 512 accumulators over 256 threads: 1024, and 88: 857 over, 88 of them no accumulators.
    use = block_use(query_key)
    assert (use.threads, use.spilled_registers, use.spilled_in_loop) == (256, 857, 769)
    blocks, steps = 2 * 2 * 2, 128 // 32
    assert local_bytes(query_key) == 2 * 4 * 256 * (88 + 769 * steps) * blocks


def test_no_spill_moves_nothing() -> None:
    problem = Attention(1, 2, 1024, 1024, 32)
    (kernel,) = catalog.plan(problem, load("a100").gpu, implementation="flash-attn-2").kernels
    assert local_bytes(record(kernel)) == 0


def test_long_rows_of_a_streaming_kernel_spill_once_a_block() -> None:
    problem = Attention(1, 1, 64, 65536, 64)
    softmax = record(catalog.plan(problem, load("a100").gpu, "standard").kernels[1])
    # 65,536 columns over 256 threads: 256 elements, and 24: 25 over.
    use = block_use(softmax)
    assert (use.spilled_registers, use.spilled_in_loop) == (25, 0)
    assert local_bytes(softmax) == 2 * 4 * 25 * 256 * 64
