"""The backward kernels on the SM: known totals and rates, and what every simulation must keep."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fasim.hardware import load
from fasim.problem import Attention, Scenario
from fasim.readings.traffic import traffic
from fasim.schedules import catalog
from fasim.schedules.record import record
from fasim.simulator.loop_rates import stream_rate
from fasim.simulator.lowering import LoopStream, lower, main_loop
from fasim.simulator.simulate import simulate
from fasim.simulator.stream import PIPES


def flash2_backward(head_dim: int, gpu: str = "a100") -> LoopStream:
    problem = Attention(1, 1, 4096, 4096, head_dim, direction="backward")
    plan = catalog.plan(problem, load(gpu).gpu, implementation="flash-attn-2")
    recorded = record(plan.kernels[1])
    return lower(recorded, load(gpu).gpu, main_loop(recorded))


def totals(stream: LoopStream) -> dict[str, int]:
    """Cycles of every pipe for an iteration of a block, on one scheduler."""
    cycles = dict.fromkeys(PIPES, 0)
    (warps,) = stream.plain
    for item in warps.items:
        cycles[item.pipe] += item.cycles * warps.warps_per_scheduler
    return cycles


@pytest.mark.parametrize(
    ("head_dim", "tensor", "sfu", "shared_memory", "alone"),
    # Totals of the compiled kernels for sm_80, and what the engine makes of them.
    [(64, 5120, 1024, 6064, 8204), (128, 5120, 512, 6272, 8331)],
)
def test_flash_attention_2_backward_on_a100(
    head_dim: int, tensor: int, sfu: int, shared_memory: int, alone: int
) -> None:
    stream = flash2_backward(head_dim)
    cycles = totals(stream)
    assert (cycles["tensor"], cycles["sfu"]) == (tensor, sfu)
    assert cycles["shared_memory"] == pytest.approx(shared_memory, rel=0.11)
    rate = stream_rate(stream.plain, 1, load("a100").gpu)
    assert rate.cycles == pytest.approx(alone, rel=0.15)
    assert rate.cycles > max(cycles.values())


def test_fragments_of_the_compiled_kernel() -> None:
    """144 ldmatrix.x4 a warp: 72 bytes a score (d = 128, 64 × 128, eight warps)."""
    names = [item.name for item in flash2_backward(128).plain[0].items]
    assert names.count("ldmatrix") == 144


def test_p_and_ds_are_stored_and_the_block_joins_before_they_are_read() -> None:
    """Three joins a step: for Q and dO, for P and dS, and before the next dO is fetched."""
    names = [item.name for item in flash2_backward(128).plain[0].items]
    stores = [n for n, name in enumerate(names) if name == "stage"]
    joins = [n for n, name in enumerate(names) if name == "barrier"]
    assert (len(stores), len(joins)) == (2, 3)
    assert joins[0] < names.index("S") < stores[0] < names.index("dP") < stores[1] < joins[1]
    assert joins[1] < names.index("dV") < joins[2] < names.index("copy dO") < names.index("dQ")
    assert names.index("dQ") < names.index("reduce dQ_accum") < names.index("dK")


def test_a_reduction_takes_eight_cycles_for_thirty_two_values() -> None:
    (reduce,) = (
        item
        for item in flash2_backward(64).plain[0].items
        if item.name.startswith("reduce") and item.pipe == "shared_memory"
    )
    # 128 × 64 values over eight warps of 32 threads.
    assert (reduce.count, reduce.cycles) == (32, 32 * 8)


def test_operands_in_registers_are_not_stored() -> None:
    problem = Attention(1, 1, 1024, 1024, 64, direction="backward")
    plan = catalog.plan(problem, load("a100").gpu, implementation="triton")
    for kernel in plan.kernels[1:]:
        recorded = record(kernel)
        stream = lower(recorded, load("a100").gpu, main_loop(recorded)).plain[0]
        assert not any(item.name == "stage" for item in stream.items)


BACKWARD = ["standard", "flash1", "flash2", "flash-attn-2", "pytorch", "triton"]
HOPPER_ONLY = ["flash3", "flash-attn-3"]
PROBLEMS = [
    Attention(2, 4, 1024, 1024, 64, direction="backward"),
    Attention(2, 4, 1024, 1024, 128, direction="both", causal=True),
    Attention(1, 4, 200, 700, 128, kv_heads=2, direction="backward", causal=True),
    Attention(1, 2, 700, 200, 64, direction="both", causal=True),
]


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        *((name, gpu) for name in BACKWARD for gpu in ("a100", "h100")),
        *((name, "h100") for name in HOPPER_ONLY),
    ],
)
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: f"{p.seqlen_q}x{p.seqlen_k}")
def test_stalls_sum_to_a_time_above_the_roofline(name: str, problem: Attention, gpu: str) -> None:
    hardware = load(gpu).gpu
    named = {"schedule" if name in catalog.SCHEDULES else "implementation": name}
    plan = catalog.plan(problem, hardware, **named)
    for l2 in ("warm", "cold"):
        scenario = Scenario(l2=l2)  # type: ignore[arg-type]
        simulation = simulate(plan, traffic(plan.kernels), hardware, scenario)
        assert sum(simulation.stalls_s.values()) == pytest.approx(simulation.time_s, rel=1e-9)
        for kernel in simulation.kernels:
            assert kernel.time_s >= kernel.roofline_s


@pytest.mark.parametrize(("name", "card"), [("flash2", "a100"), ("flash3", "h100")])
def test_skipping_repeated_waves_agrees(name: str, card: str) -> None:
    gpu = load(card).gpu
    for causal in (False, True):
        problem = Attention(4, 16, 2048, 2048, 128, causal=causal, direction="backward")
        plan = catalog.plan(problem, gpu, name)
        exact = traffic(plan.kernels)
        short = simulate(plan, exact, gpu, Scenario())
        full = simulate(plan, exact, gpu, Scenario(), repeat=False)
        assert short.time_s == pytest.approx(full.time_s, rel=0.01)


def test_reductions_reach_dram_where_l2_does_not_hold_them() -> None:
    """dQ_accum of 512 MiB, added to in four waves and more, against 40 MiB of L2."""
    gpu = load("a100").gpu
    small = Attention(1, 4, 1024, 1024, 128, direction="backward")
    large = replace(small, batch=16, heads=16, seqlen_q=4096, seqlen_k=4096)
    moved = []
    for problem in (small, large):
        plan = catalog.plan(problem, gpu, "flash2")
        main = simulate(plan, traffic(plan.kernels), gpu, Scenario()).kernels[1]
        assert main.memory.l2["dQ_accum"].reduce_bytes > 0
        moved.append(main.memory.dram["dQ_accum"])
    assert moved[0].total_bytes == 0
    size = 16 * 16 * 4096 * 128 * 4
    assert moved[1].read_bytes >= 0.9 * size
