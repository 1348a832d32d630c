"""Lowered streams of the backward on Hopper: exact totals, the order of products, reductions."""

from collections import Counter
from dataclasses import replace

import pytest

from fasim.hardware import load
from fasim.problem import Attention, Scenario
from fasim.readings.traffic import traffic
from fasim.schedules import catalog
from fasim.schedules.language import Kernel
from fasim.schedules.record import record
from fasim.simulator.issue_order import longest_first
from fasim.simulator.loop_rates import stream_rate
from fasim.simulator.lowering import LoopStream, lower, main_loop
from fasim.simulator.simulate import simulate
from fasim.simulator.stream import Item
from fasim.simulator.trips import grid_trips
from tests.simulator.problems import machine, pipes, scaled, simulated

GPU = load("h100").gpu
MIB = 2**20


def main_kernel(head_dim: int = 128, causal: bool = False) -> Kernel:
    problem = Attention(1, 8, 4096, 4096, head_dim, causal=causal, direction="backward")
    return catalog.plan(problem, GPU, implementation="flash-attn-3").kernels[1]


def lowered(kernel: Kernel, **changes: object) -> LoopStream:
    mapping = replace(kernel.mapping, **changes)  # type: ignore[arg-type]
    recorded = record(replace(kernel, mapping=mapping))
    return lower(recorded, GPU, main_loop(recorded))


def items_of(kernel: Kernel, **changes: object) -> tuple[Item, ...]:
    (role,) = lowered(kernel, **changes).plain
    return role.items


def totals(stream: LoopStream) -> Counter[str]:
    cycles: Counter[str] = Counter()
    for role in stream.plain:
        for item in role.items:
            cycles[item.pipe] += item.cycles * role.warps_per_scheduler
    return cycles


def rate(kernel: Kernel, **changes: object) -> float:
    return stream_rate(lowered(kernel, **changes).plain, 1, GPU).cycles


@pytest.mark.parametrize(("head_dim", "causal"), [(64, False), (128, False), (128, True)])
def test_tensor_and_sfu_work_is_exact(head_dim: int, causal: bool) -> None:
    """Five products at the tensor cores' rate, an exponential a score on 16 lanes."""
    kernel = main_kernel(head_dim, causal)
    rows, keys = kernel.tiles["q"], kernel.tiles["k"]
    cycles = totals(lowered(kernel))
    assert cycles["tensor"] == 5 * 2 * rows * keys * head_dim // 4096
    assert cycles["sfu"] == rows * keys // 16


def test_what_passes_through_shared_memory() -> None:
    """80 × 128: dS, dQ twice, Q and dO as they arrive, LSE and delta read by every thread."""
    cycles = totals(lowered(main_kernel()))
    ds, dq, arriving = 80 * 128 * 2, 80 * 128 * 4, 2 * 80 * 128 * 2
    # A thread has 20 queries' values of each vector, in 10 loads; eight warps, a cycle each.
    vectors = 2 * 10 * 8 * 128
    least = (ds + 2 * dq + arriving + vectors) / 128
    # Beside that, the few bytes of arriving vectors take a piece of 512 bytes a warp each.
    assert cycles["shared_memory"] == pytest.approx(least + 2 * 8 * 512 / 128, rel=0.01)


def test_products_are_issued_beside_the_work_between() -> None:
    items = items_of(main_kernel())
    names = [item.name for item in items]
    tensor = [item.name for item in items if item.pipe == "tensor"]
    order = [name for i, name in enumerate(tensor) if not i or tensor[i - 1] != name]
    assert order == ["S", "dP", "dV", "dQ", "dK"]
    assert names.index("dP") < names.index("exp2")
    # dS is stored and the block joins before dQ reads it; dQ leaves beside dK.
    stores = [i for i, name in enumerate(names) if name == "stage"]
    assert stores[0] < names.index("barrier") < names.index("dQ") < names.index("dK") < stores[1]
    # Nothing is left in flight at the end of an iteration.
    last = names.index("wgmma wait")
    assert items[last].needs == ((names.index("dK"), 0),)
    assert last > stores[1]


def test_issuing_beside_hides_work() -> None:
    kernel = main_kernel(64)
    assert rate(kernel) < 0.98 * rate(kernel, beside=())


def test_a_mapping_that_issues_a_product_before_its_operand_is_refused() -> None:
    with pytest.raises(ValueError, match="dQ takes what is computed in between"):
        lowered(main_kernel(), beside=(("dQ", "S"),))


def test_a_bulk_reduction_leaves_from_a_buffer() -> None:
    """The tile is stored once the one before has been read, and the warp goes on."""
    items = items_of(main_kernel())
    leaving = [i for i, item in enumerate(items) if item.name == "reduce dQ_accum"]
    assert [items[i].pipe for i in leaving] == ["shared_memory", "global"]
    assert all(items[i].asynchronous for i in leaving)
    stored = leaving[0] - 1
    assert items[stored].name == "stage"
    assert (leaving[1], 1) in items[stored].needs
    # Added by the threads, each value is an instruction, and passes twice.
    by_threads = next(
        item for item in items_of(main_kernel(), bulk_reduced=()) if item.name == "reduce dQ_accum"
    )
    assert by_threads.count == 80 * 128 // 8 // 32
    assert not by_threads.asynchronous


def test_an_only_buffer_is_refilled_as_soon_as_it_is_read() -> None:
    names = [item.name for item in items_of(main_kernel(192))]
    assert names.index("reduce dQ_accum") < names.index("copy dO") < names.index("wgmma wait")
    assert names.index("copy Q") > names.index("wgmma wait")
    several = [item.name for item in items_of(main_kernel(128))]
    assert several.index("copy dO") > several.index("wgmma wait")


def test_operands_that_are_kept_take_no_shared_memory() -> None:
    kernel = main_kernel()
    through = totals(lowered(kernel, operands_in_registers=()))
    kept = totals(lowered(kernel))
    # P is stored too; dS is in either.
    stored = through["shared_memory"] - kept["shared_memory"]
    assert stored == pytest.approx(80 * 128 * 2 / 128, rel=0.01)


def test_the_loop_is_nearer_its_products_where_heads_are_wider() -> None:
    shares = [
        totals(lowered(kernel))["tensor"] / rate(kernel)
        for kernel in (main_kernel(64), main_kernel(128))
    ]
    assert 0.6 < shares[0] < shares[1] < 1


def test_sections_hold_q_do_and_the_sums_of_dq() -> None:
    """512 × 128 of two, two and four bytes: half a MiB a head, whatever heads share of K and V."""
    for kv_heads in (8, 2):
        problem = Attention(1, 8, 512, 512, 128, kv_heads, causal=True, direction="backward")
        plan = catalog.plan(problem, GPU, implementation="flash-attn-3")
        kernel = next(k for k in plan.kernels if k.name == "flash3_backward")
        recorded = record(kernel)
        trips = grid_trips(recorded, main_loop(recorded))
        for section, repeats in ((MIB, 4), (2 * MIB, 2), (MIB // 4, 8)):
            mapped = replace(kernel, mapping=replace(kernel.mapping, section_bytes=section))
            ordered = longest_first(trips, mapped)
            assert ordered.repeats == repeats
            totals_ = [block.total for block in ordered.pattern]
            assert totals_ == sorted(totals_, reverse=True)


def test_sums_of_a_group_leave_at_the_end_of_a_block() -> None:
    """dK and dV in four bytes through the port to L2, not in two."""
    alone = Attention(1, 16, 2048, 2048, 128, direction="backward")
    times = []
    for problem in (alone, replace(alone, kv_heads=2)):
        plan = catalog.plan(problem, GPU, implementation="flash-attn-3")
        simulation = simulate(plan, traffic(plan.kernels), GPU, Scenario())
        (main,) = (k for k in simulation.kernels if k.lowered.work.name == "flash3_backward")
        (block,) = main.lowered.work.classes
        times.append(sum(ticks for cause, ticks in block.epilogue if cause == "l2"))
    assert times[1] == pytest.approx(2 * times[0], rel=0.01)


@pytest.mark.parametrize("resource", [*machine, *pipes])
@pytest.mark.parametrize("kv_heads", [16, 4])
def test_more_of_the_machine_is_no_slower(resource: str, kv_heads: int) -> None:
    profile = load("h100")
    problem = Attention(4, 16, 2048, 2048, 128, kv_heads, direction="backward")
    plan = catalog.plan(problem, GPU, "flash3")
    before = simulated(profile, plan).time_s
    for factor in (1.25, 2.0):
        assert simulated(scaled(profile, resource, factor), plan).time_s <= 1.03 * before
