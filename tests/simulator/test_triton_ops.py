"""The operator of Triton 2.1 on the SM, beside its kernels as Triton 2.1.0 compiles them for sm_80.

Counts are of the inner loops' SASS: registers and local memory of `-res-usage`, shared memory of
the compiler's metadata.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from fasim.hardware import load
from fasim.problem import Attention, Scenario
from fasim.readings.footprint import footprint
from fasim.readings.traffic import traffic
from fasim.schedules import catalog, one_pass
from fasim.schedules.implementations.triton_ops import backward_mapping, takes_tiles_in_parallel
from fasim.schedules.record import Record, record
from fasim.schedules.residency import block_use, residency, spills_fit_l1
from fasim.schedules.tiling import Tiling
from fasim.simulator.lowering import lower, main_loop
from fasim.simulator.simulate import simulate
from fasim.simulator.stream import Item

A100 = load("a100").gpu


def backward(head_dim: int, parallel: bool, causal: bool = False) -> Record:
    problem = Attention(1, 1, 1024, 1024, head_dim, causal=causal, direction="backward")
    mapping = backward_mapping(problem, parallel=parallel)
    return record(one_pass.kernels(problem, Tiling(128, 128), mapping, parallel=parallel)[2])


def forward(head_dim: int, causal: bool = False) -> Record:
    problem = Attention(1, 1, 1024, 1024, head_dim, causal=causal)
    return record(catalog.plan(problem, A100, implementation="triton-2.1").kernels[0])


def items(recorded: Record) -> tuple[Item, ...]:
    return lower(recorded, A100, main_loop(recorded)).plain[0].items


def count(stream: tuple[Item, ...], *names: str) -> int:
    return sum(item.count for item in stream if item.name in names)


@pytest.mark.parametrize(
    ("head_dim", "parallel", "products", "ldmatrix"),
    # dQᵀ of head_dim 64 has rows for four warps of eight, which do it twice.
    [(64, False, 320, 184), (64, True, 384, 224), (128, False, 640, 352), (128, True, 640, 360)],
)
def test_products_and_fragments_of_the_compiled_backward(
    head_dim: int, parallel: bool, products: int, ldmatrix: int
) -> None:
    stream = items(backward(head_dim, parallel))
    assert count(stream, "S", "dP", "dV", "dK", "dQ") == products
    assert count(stream, "ldmatrix") == ldmatrix


@pytest.mark.parametrize(("head_dim", "products", "ldmatrix"), [(64, 128, 40), (128, 128, 72)])
def test_products_and_fragments_of_the_compiled_forward(
    head_dim: int, products: int, ldmatrix: int
) -> None:
    stream = items(forward(head_dim))
    assert count(stream, "S", "O") == products
    assert count(stream, "ldmatrix") == ldmatrix


@pytest.mark.parametrize(("head_dim", "compiled"), [(64, 98304), (128, 163840)])
@pytest.mark.parametrize("parallel", [False, True])
def test_a_block_has_an_sm_of_its_own(head_dim: int, compiled: int, parallel: bool) -> None:
    use = block_use(backward(head_dim, parallel))
    assert use.shared_memory_bytes == compiled
    assert use.registers_per_thread == 256  # 255, allotted in eights
    assert residency(use, A100).blocks_per_sm == 1


@pytest.mark.parametrize(("head_dim", "compiled", "blocks"), [(64, 81920, 2), (128, 163840, 1)])
def test_forward_holds_four_stages(head_dim: int, compiled: int, blocks: int) -> None:
    use = block_use(forward(head_dim))
    assert use.shared_memory_bytes == compiled
    assert residency(use, A100).blocks_per_sm == blocks


def test_plain_loads_are_stored_between_barriers_before_they_are_read() -> None:
    stream = items(backward(64, parallel=False))
    names = [item.name or item.pipe for item in stream]
    assert not any(name.startswith(("copy", "wait")) for name in names)
    for tensor, product in (("Q", "S"), ("dO", "dV")):
        load_, fill = names.index(f"load {tensor}"), names.index(f"fill {tensor}")
        assert names[fill - 1] == names[fill + 1] == "barrier"
        assert load_ < fill < names.index(product)
        assert (load_, 0) in stream[fill].needs  # it waits for L2
        assert (fill, 0) in stream[fill + 1].needs
    # dO is asked for beside S and arrives behind it; nothing is there for Q to hide behind.
    assert names.index("load Q") < names.index("fill Q") < names.index("S") < names.index("load dO")


def test_p_needs_no_barrier_of_its_own() -> None:
    """It is stored with dO: the block joins for both."""
    names = [item.name or item.pipe for item in items(backward(64, parallel=False))]
    fill = names.index("fill dO")
    assert names.index("stage") < fill
    assert "barrier" not in names[fill + 2 : names.index("dV")]


@pytest.mark.parametrize(("parallel", "ways"), [(False, 1), (True, 4)])
def test_dq_leaves_through_shared_memory(parallel: bool, ways: int) -> None:
    name = "dQ_replicas" if parallel else "dQ_sum"
    stream = items(backward(128, parallel))
    names = [item.name for item in stream]
    stored, read = (n for n, each in enumerate(names) if each == f"rearrange {name}")
    # 128 × 128 values of four bytes over eight warps; a scheduler's share is 32 bytes a clock.
    assert stream[read].cycles == 128 * 128 * 4 // 8 // 32
    assert stream[stored].cycles == ways * stream[read].cycles
    assert (stored, 0) in stream[read].needs
    assert names.index("dQ") < stored < read < names.index(f"store {name}")


@pytest.mark.parametrize("parallel", [False, True])
def test_spills_come_from_l2_where_l1_cannot_hold_them(parallel: bool) -> None:
    """160 KiB of shared memory leave 32 of 192; head_dim 128 spills 136 KiB or more."""
    for head_dim, pipes in ((64, {"shared_memory"}), (128, {"global"})):
        recorded = backward(head_dim, parallel)
        use = block_use(recorded)
        assert spills_fit_l1(use, A100) == (head_dim == 64)
        assert {item.pipe for item in items(recorded) if item.name == "spill"} == pipes


def test_l1_is_large_enough_where_a_profile_does_not_say() -> None:
    memory = A100.shared_memory.model_copy(update={"unified_bytes": None})
    unknown = A100.model_copy(update={"shared_memory": memory})
    assert spills_fit_l1(block_use(backward(128, parallel=False)), unknown)


def test_the_mask_is_paid_for_in_every_tile() -> None:
    for recorded in (forward(64, causal=True), backward(64, parallel=True, causal=True)):
        loop = lower(recorded, A100, main_loop(recorded))
        assert loop.plain == loop.masked
        mapping = replace(recorded.kernel.mapping, masks_every_tile=False)
        split = replace(recorded, kernel=replace(recorded.kernel, mapping=mapping))
        apart = lower(split, A100, main_loop(split))
        assert apart.plain != apart.masked == loop.masked


@pytest.mark.parametrize(
    ("heads", "parallel"), [(16, True), (107, True), (108, False), (128, True), (216, False)]
)
def test_key_tiles_are_taken_in_parallel_where_that_fills_the_gpu(
    heads: int, parallel: bool
) -> None:
    problem = Attention(1, heads, 108 * 128, 108 * 128, 64, direction="backward")
    assert takes_tiles_in_parallel(problem, A100) == parallel
    plan = catalog.plan(problem, A100, implementation="triton-2.1")
    assert ("dQ_replicas" in plan.kernels[0].tensors[0].name) == parallel


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (Attention(1, 1, 1024, 1024, 96), "head_dim 16, 32, 64 and 128, not 96"),
        (Attention(1, 4, 1024, 1024, 64, kv_heads=2), "as many key/value heads"),
        (Attention(1, 1, 1024, 2048, 64), "as many queries as keys, a multiple of 128"),
        (Attention(1, 1, 1000, 1000, 64), "not 1000 and 1000"),
    ],
)
def test_what_the_operator_cannot_run_is_refused(problem: Attention, said: str) -> None:
    with pytest.raises(catalog.Refused, match=said):
        catalog.plan(problem, A100, implementation="triton-2.1")


@pytest.mark.parametrize("heads", [16, 108])
@pytest.mark.parametrize("causal", [False, True])
def test_stalls_sum_to_a_time_above_the_roofline(heads: int, causal: bool) -> None:
    problem = Attention(1, heads, 1024, 1024, 128, causal=causal, direction="both")
    plan = catalog.plan(problem, A100, implementation="triton-2.1")
    simulation = simulate(plan, traffic(plan.kernels), A100, Scenario())
    assert sum(simulation.stalls_s.values()) == pytest.approx(simulation.time_s, rel=1e-9)
    assert all(kernel.time_s >= kernel.roofline_s for kernel in simulation.kernels)


def test_replicas_take_device_memory() -> None:
    """A dQ in fp16 for each of 128 key tiles: 8 GiB at 16 K tokens of 2048 columns."""
    problem = Attention(1, 16, 16384, 16384, 128, direction="backward")
    plan = catalog.plan(problem, A100, implementation="triton-2.1")
    found = footprint(plan.kernels)
    assert found.by_tensor["dQ_replicas"] == 128 * found.by_tensor["dQ"] == 8 * 2**30
    assert found.peak_bytes > 8 * 2**30
    alone = one_pass.kernels(problem, Tiling(128, 128), plan.kernels[2].mapping, parallel=False)
    assert footprint(alone).by_tensor["dQ_sum"] == 2 * found.by_tensor["dQ"]
