"""Triton's loops as lowered, against what its compiler makes of the same tiles, warps and stages.

Buffers, products and exponentials are those that Triton 3.9 compiles; FP32 within 10 %.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from fasim.hardware import load
from fasim.problem import Attention
from fasim.schedules.catalog import plan
from fasim.schedules.implementations.triton import buffers
from fasim.schedules.language import Kernel
from fasim.schedules.record import record
from fasim.schedules.residency import block_use
from fasim.simulator.lowering import lower, main_loop


def kernel_of(gpu: str, name: str, head_dim: int = 64) -> Kernel:
    direction = "forward" if name == "flash2_forward" else "backward"
    problem = Attention(1, 1, 4096, 4096, head_dim, direction=direction)
    kernels = plan(problem, load(gpu).gpu, implementation="triton").kernels
    (kernel,) = (kernel for kernel in kernels if kernel.name == name)
    return kernel


def counts(gpu: str, kernel: Kernel) -> dict[str, int]:
    recorded = record(kernel)
    (stream,) = lower(recorded, load(gpu).gpu, main_loop(recorded)).plain
    found: dict[str, int] = {}
    for item in stream.items:
        found[item.pipe] = found.get(item.pipe, 0) + item.count
    found["shuffle"] = sum(item.count for item in stream.items if item.name == "shuffle")
    return found


@pytest.mark.parametrize(
    ("gpu", "name", "tensor", "sfu", "fp32", "shared_memory_bytes"),
    [
        ("a100", "flash2_forward", 128, 68, 208, 65536),
        ("h100", "flash2_forward", 8, 34, 104, 131072),
        ("a100", "key_value_pass", 128, 32, 104, None),
        ("h100", "key_value_pass", 24, 32, 104, None),
        ("a100", "query_pass", 96, 32, 96, None),
        ("h100", "query_pass", 20, 32, 96, None),
    ],
)
def test_an_iteration_is_as_compiled(
    gpu: str, name: str, tensor: int, sfu: int, fp32: int, shared_memory_bytes: int | None
) -> None:
    kernel = kernel_of(gpu, name)
    found = counts(gpu, kernel)
    assert (found["tensor"], found["sfu"]) == (tensor, sfu)
    assert found["fp32"] == pytest.approx(fp32, rel=0.1)
    if shared_memory_bytes is not None:  # Triton 2.1 and 3.9 keep other tiles in backward
        assert block_use(record(kernel)).shared_memory_bytes == shared_memory_bytes


def test_row_sums_are_combined_in_every_step() -> None:
    kernel = kernel_of("a100", "flash2_forward")
    at_the_end = replace(kernel, mapping=replace(kernel.mapping, sums_every_step=False))
    rows, exchanges = 4, 2  # rows of a thread; two exchanges join the four that share a row
    ours, theirs = counts("a100", kernel), counts("a100", at_the_end)
    assert ours["shuffle"] == theirs["shuffle"] + rows * exchanges == 16
    assert ours["fp32"] == theirs["fp32"] + rows * exchanges


@pytest.mark.parametrize(("products", "held"), [(1, 5), (2, 6)])
def test_tcgen05_keeps_a_tile_more_that_two_products_take(products: int, held: int) -> None:
    assert buffers(load("b200").gpu, 5, products=products) == held
