"""Fragments of mma.sync: when they are fetched, and whether they wait for products."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import pytest

from fasim.hardware import load
from fasim.problem import Attention
from fasim.schedules.catalog import plan
from fasim.schedules.record import record
from fasim.simulator.loop_rates import stream_rate
from fasim.simulator.lowering import lower, main_loop
from fasim.simulator.stream import Item, Stream

FETCH = "ldmatrix"
# T(1) of the loops of version 2.0.8 as CUDA 11.8 compiled them for sm_80, read from the machine
# code: each instruction at its pipe, with what its registers and scoreboards wait for.
COMPILED = {
    ("a100", 64): 8765,
    ("a100", 128): 7950,
    ("rtx4090", 32): 11587,
    ("rtx4090", 64): 11070,
    ("rtx4090", 128): 10866,
}


def backward(gpu_name: str, head_dim: int, *, guarded: bool) -> Stream:
    gpu = load(gpu_name).gpu
    problem = Attention(1, 1, 4096, 4096, head_dim, direction="backward")
    recorded = next(
        each
        for each in map(record, plan(problem, gpu, None, "flash-attn-2").kernels)
        if main_loop(each)
    )
    mapping = replace(recorded.kernel.mapping, guarded_fragments=guarded)
    recorded = replace(recorded, kernel=replace(recorded.kernel, mapping=mapping))
    return lower(recorded, gpu, main_loop(recorded)).plain[0]


def of_product(items: tuple[Item, ...], name: str) -> list[Item]:
    """The products of one matmul, and the fetches around them."""
    first = next(i for i, item in enumerate(items) if item.name == name)
    last = max(i for i, item in enumerate(items) if item.name == name)
    while items[first - 1].name == FETCH:
        first -= 1
    return [item for item in items[first : last + 1] if item.name in (name, FETCH)]


def pattern(items: list[Item]) -> list[int]:
    """Fetches in a row as negative numbers, products between them as positive ones."""
    return [
        -len(alike) if fetches else sum(item.count for item in alike)
        for fetches, alike in (
            (key, list(group)) for key, group in groupby(items, lambda item: item.name == FETCH)
        )
    ]


def test_guarded_fragments_are_two_steps_ahead_and_take_the_place_of_those_last_read() -> None:
    """dV of 128 x 64 by 4 x 2 warps: two fragments a side and step, eight products, eight steps.

    The second of B is free behind all products; of A, the second behind the seventh.
    """
    items = of_product(backward("a100", 64, guarded=True).items, "dV")
    step = [4, -1, 3, -1, 1, -2]
    assert pattern(items) == [-8, *(step * 6)[:-1], -2, 8 + 8]


def test_unguarded_fragments_are_a_step_ahead_between_the_products() -> None:
    items = of_product(backward("a100", 64, guarded=False).items, "dV")
    assert pattern(items) == [-4 - 2, *[4, -2] * 13, 4 + 8]


def test_guarded_fragments_wait_for_all_products_issued() -> None:
    items = backward("a100", 64, guarded=True).items
    product, waiting = -1, 0
    for index, item in enumerate(items):
        if item.pipe == "tensor":
            product = index
        elif item.name == FETCH:
            awaited = [needed for needed, _ in item.needs if items[needed].pipe == "tensor"]
            assert awaited in ([], [product])
            waiting += bool(awaited)
    # All but those of a product's first two steps: of four steps in S and dP, eight in the others.
    assert waiting == 2 * 2 * 6 + 3 * 6 * 4


def test_unguarded_fragments_wait_for_no_product() -> None:
    items = backward("a100", 64, guarded=False).items
    needed = {n for item in items if item.name == FETCH for n, _ in item.needs}
    assert not [n for n in needed if items[n].pipe == "tensor"]


@pytest.mark.parametrize("guarded", [True, False])
def test_the_work_is_that_of_the_compiled_loop(guarded: bool) -> None:
    items = backward("a100", 64, guarded=guarded).items
    assert sum(item.count for item in items if item.pipe == "tensor") == 320
    assert sum(item.name == FETCH for item in items) == 144


@pytest.mark.parametrize(("gpu_name", "head_dim"), COMPILED)
def test_the_guarded_rates_are_within_4_percent_of_the_compiled_loops(
    gpu_name: str, head_dim: int
) -> None:
    stream = backward(gpu_name, head_dim, guarded=True)
    cycles = stream_rate((stream,), 1, load(gpu_name).gpu).cycles
    assert cycles == pytest.approx(COMPILED[gpu_name, head_dim], rel=0.04)


@pytest.mark.parametrize("head_dim", [64, 128])
def test_the_guard_costs_what_compilers_without_it_save(head_dim: int) -> None:
    """The same PTX by ptxas 12.9: 6 % less for head_dim 64."""
    gpu = load("a100").gpu
    with_it, without = (
        stream_rate((backward("a100", head_dim, guarded=guarded),), 1, gpu).cycles
        for guarded in (True, False)
    )
    assert 1.02 < with_it / without < 1.08


@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_no_more_fragments_of_v_are_fetched_ahead_than_registers_hold(head_dim):
    """PV: eight come before the first product; each of the others behind one that has read."""
    gpu = load("rtx4090").gpu
    kernel = plan(Attention(8, 16, 4096, 4096, head_dim), gpu, None, "flash-attn-2").kernels[0]
    recorded = record(kernel)
    items = of_product(lower(recorded, gpu, main_loop(recorded)).plain[0].items, "O")
    runs = pattern(items)
    fetched = -sum(run for run in runs if run < 0)
    assert runs[0] == -min(8, fetched)
    assert min(runs[1:]) >= -1
