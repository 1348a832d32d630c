"""Products that stream their operands in pieces, sums under a lock, compiled overhead."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from fasim.hardware import Gpu, load
from fasim.problem import Attention
from fasim.schedules import catalog
from fasim.schedules.language import Kernel, Tensor
from fasim.schedules.mapping import Mapping
from fasim.schedules.record import record
from fasim.simulator.loop_rates import stream_rate
from fasim.simulator.lowering import lower, main_loop
from fasim.simulator.stream import Item, Stream

ROWS, OTHERS, WIDTH = 64, 32, 96
STEP = 32  # so that X and Y come in three pieces
MAPPING = Mapping(4, buffers=(("X", 1), ("Y", 1)), product_step=STEP, stages=3)
BARRIER = ("barrier", "barrier")


def products(block, _problem):
    """Rows times all others, and what comes of it added to the others' sums."""
    rows = block.rows("m")
    total = block.full(0.0, rows)
    for others in block.loop("n"):
        dots = block.matmul(block.load("X", rows), block.load("Y", others).T, name="dots")
        total = total + dots.row_sum()
        narrow = dots.to("fp16")
        block.reduce("sums", block.matmul(narrow.T, block.load("X", rows), name="part"), others)
    block.store("total", total, rows)


def stream(mapping: Mapping = MAPPING) -> Stream:
    kernel = Kernel(
        name="products",
        program=products,
        problem=Attention(1, 1, 16, 16, 16),
        grid=("m",),
        lengths={"m": 1024, "n": 1024, "w": WIDTH},
        tiles={"m": ROWS, "n": OTHERS},
        tensors=(
            Tensor("X", ("m", "w"), "fp16"),
            Tensor("Y", ("n", "w"), "fp16"),
            Tensor("sums", ("n", "w"), "fp32"),
            Tensor("total", ("m",), "fp32"),
        ),
        mapping=mapping,
    )
    recorded = record(kernel)
    (one,) = lower(recorded, load("a100").gpu, main_loop(recorded)).plain
    return one


def named(items: tuple[Item, ...], *names: str) -> list[str]:
    """The names of these items in the order of issue, barriers with them."""
    return [item.name for item in items if item.name in names or item.pipe == "barrier"]


def cycles(mapping: Mapping) -> float:
    return stream_rate((stream(mapping),), 1, load("a100").gpu).cycles


def test_a_product_waits_and_joins_before_each_piece() -> None:
    """Three pieces of dots' operands, which all fit: copies, then a barrier before each."""
    items = stream().items
    begin = [item.name for item in items].index("copy X")
    order = named(items[begin:], "copy X", "copy Y", "wait dots", "dots")
    kept = [name for n, name in enumerate(order) if name != "dots" or order[n - 1] != "dots"]
    assert kept[:17] == [
        *("copy X", "copy Y") * 3,
        *("wait dots", "barrier", "dots") * 3,  # before the last step of a piece
        *("barrier", "dots"),  # none is left to wait for
    ]


def test_a_piece_takes_the_place_of_the_one_before() -> None:
    """With two places of three, one piece is fetched ahead; the last when the first is used."""
    items = stream(replace(MAPPING, stages=2)).items
    begin = [item.name for item in items].index("copy Y")
    order = named(items[begin:], "copy Y", "wait dots")
    assert order[: order.index("barrier") + 2] == ["copy Y", "wait dots", "barrier", "copy Y"]
    waits = [item for item in items if item.name == "wait dots"]
    needed = [{items[index].name for index, _ in wait.needs} for wait in waits]
    assert needed == [{"copy X", "copy Y"}] * 3


def test_two_loads_of_a_tensor_are_two_copies() -> None:
    """X comes for dots along its width, for part along its rows."""
    items = stream().items
    assert sum(item.name == "copy X" for item in items) == WIDTH // STEP + ROWS // STEP
    for wait in (item for item in items if item.name == "wait part"):
        assert [items[index].name for index, _ in wait.needs] == ["copy X"]


def test_what_may_be_fetched_only_right_before_exposes_the_latency() -> None:
    latency = load("a100").gpu.l2.latency_cycles
    ahead = replace(MAPPING, fetched_after=(("dots", "part"), ("part", "dots")))
    assert cycles(MAPPING) - cycles(ahead) > latency / 2
    items = stream(ahead).items
    waits = [item for item in items if item.name == "wait dots"]
    assert {back for wait in waits for _, back in wait.needs} == {1}  # of the iteration before
    waits = [item for item in items if item.name == "wait part"]
    assert {back for wait in waits for _, back in wait.needs} == {0}


def test_a_sum_under_a_lock_is_read_written_and_fenced() -> None:
    items = stream(replace(MAPPING, locked=("sums",))).items
    around = ("take lock", "load sums", "store sums", "wait fence", "free lock")
    order = [item.name for item in items if item.name in around]
    assert order == [
        *("take lock", "wait fence", "load sums"),
        *("store sums", "wait fence", "wait fence", "free lock"),
    ]
    first = next(item for item in items if item.name == "part")
    assert "load sums" in {items[index].name for index, _ in first.needs}
    assert not any(item.name.startswith("reduce") for item in items)


def test_a_lock_costs_round_trips_to_l2() -> None:
    """The lock, the sum, three fences; an atomic addition waits for none."""
    latency = load("a100").gpu.l2.latency_cycles
    locked = cycles(replace(MAPPING, locked=("sums",)))
    assert 4 * latency < locked - cycles(MAPPING) < 8 * latency


def test_compiled_overhead_takes_the_place_of_the_estimate() -> None:
    items = stream(replace(MAPPING, overhead=(100, 60, 40))).items
    counts = Counter[tuple[str, bool]]()
    for item in items:
        counts[item.pipe, item.cycles > 0] += item.count if item.name == "set up" else 0
    assert (counts["alu", True], counts["fp32", True], counts["alu", False]) == (100, 60, 40)
    assert not any(item.name == "loop" or item.name.startswith("address") for item in items)


def test_a_tile_that_goes_on_into_shared_memory_is_waited_for() -> None:
    problem = Attention(1, 1, 1024, 1024, 64, direction="backward")
    gpu = load("a100").gpu
    plan = catalog.plan(problem, gpu, implementation="xformers-cutlass")
    main = next(kernel for kernel in plan.kernels if kernel.mapping.matrix_unit != "none")
    for waits in (main.mapping.wait_before, ()):
        kernel = replace(main, mapping=replace(main.mapping, wait_before=waits))
        recorded = record(kernel)
        names = [i.name for i in lower(recorded, gpu, main_loop(recorded)).plain[0].items]
        assert ("wait delta" in names) == bool(waits)


# xFormers v0.0.20, fp16, sm_80: machine code of the loop over tiles, of a warp and an iteration.
# HMMA is counted in m16n8k16: the kernels issue two m16n8k8 for one. LDGSTS without those that are
# predicated off, as the last steps of a product have nothing to fetch. Forward's FP32 and SFU work
# on row values is dealt out to warps otherwise, and is not compared.
COMPILED = {
    # head_dim, direction: HMMA, LDGSTS, STS of P and dS, FMUL, FADD, MUFU.EX2, LDS.U16 (P again)
    (64, "forward"): (64, 12, 16, None, None, None, 0),
    (128, "forward"): (128, 20, 16, None, None, None, 0),
    (64, "backward"): (160, 24, 32, 128, 64, 32, 32),
    (128, "backward"): (320, 28, 32, 128, 64, 32, 32),
}


@pytest.mark.parametrize(("head_dim", "direction"), COMPILED)
def test_the_counts_are_those_of_the_compiled_kernel(
    a100: Gpu, head_dim: int, direction: str
) -> None:
    problem = Attention(1, 1, 4096, 4096, head_dim, direction=direction)  # type: ignore[arg-type]
    plan = catalog.plan(problem, a100, implementation="xformers-cutlass")
    main = next(kernel for kernel in plan.kernels if kernel.mapping.matrix_unit != "none")
    recorded = record(main)
    (one,) = lower(recorded, a100, main_loop(recorded)).plain
    counts = Counter[str]()
    for item in one.items:
        kind = item.pipe if item.pipe in ("tensor", "copy", "sfu") else item.name
        counts[kind] += item.count
    kinds = ("tensor", "copy", "stage", "mul", "sub", "sfu", "read back")
    found = [counts[kind] for kind in kinds]
    for count, compiled in zip(found, COMPILED[head_dim, direction], strict=True):
        assert compiled in (None, count)
