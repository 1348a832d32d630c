"""What passes between warps that divide a row, or the side a product contracts."""

from dataclasses import replace

import pytest

from fasim.hardware import load
from fasim.problem import Attention
from fasim.schedules.catalog import plan
from fasim.schedules.record import record
from fasim.simulator.lowering import lower, main_loop

A100 = load("a100").gpu
SHARE = A100.shared_memory.bytes_per_clock / A100.sm.schedulers


def test_a_transposed_operand_is_contracted_along_its_rows():
    """Triton's dK and dV: warps own keys, Pᵀ's rows, and sum over queries alone."""
    problem = Attention(1, 1, 2048, 2048, 64, direction="backward")
    kernel = next(
        k for k in plan(problem, A100, None, "triton").kernels if k.name == "key_value_pass"
    )
    recorded = record(kernel)
    stream = lower(recorded, A100, main_loop(recorded)).plain[0].items
    assert not named(stream, "partial store")


def items(direction="forward", **changes):
    """Of flash-attn-1's main kernel at 16 rows, head_dim 128 and 128 keys."""
    problem = Attention(1, 1, 2048, 2048, 128, direction=direction)
    kernels = plan(problem, A100, None, "flash-attn-1").kernels
    (kernel,) = (k for k in kernels if any(t.name == "K" for t in k.tensors))
    recorded = record(replace(kernel, mapping=replace(kernel.mapping, **changes)))
    return lower(recorded, A100, main_loop(recorded)).plain[0].items


def named(stream, name):
    return [item for item in stream if item.name == name]


def test_partial_products_pass_through_shared_memory_whole_and_come_back_in_shares():
    (stored,) = named(items(), "partial store")
    (loaded,) = named(items(), "partial load")
    partial_bytes = 16 * 128 * 4  # a warp's part of O; it loads as much: a quarter of each part
    assert stored.cycles == loaded.cycles == partial_bytes / SHARE
    (added,) = named(items(), "partial sum")
    assert added.count == 3 * 16 * 128 // (4 * 32)


def test_a_barrier_stands_between_store_and_load():
    stream = items()
    for what in ("partial", "row"):
        names = [item.name for item in stream]
        begin, end = names.index(f"{what} store"), names.index(f"{what} load")
        assert "barrier" in names[begin:end]
        needed = [stream[n] for n, _ in stream[end].needs]
        assert [item.pipe for item in needed] == ["barrier"]


def test_maximum_and_sum_of_a_row_are_exchanged():
    assert len(named(items(), "row store")) == 2


def test_backward_adds_up_dq_and_exchanges_no_rows():
    stream = items("backward")
    (stored,) = named(stream, "partial store")
    assert stored.cycles == 16 * 128 * 4 / SHARE
    assert not named(stream, "row store")


@pytest.mark.parametrize("changes", [{"warp_grid": (4, 1)}, {"operands_in_registers": ()}])
def test_warps_along_the_rows_or_operands_in_shared_memory_leave_no_parts(changes):
    assert not named(items(**changes), "partial store")
    assert bool(named(items(**changes), "row store")) == ("warp_grid" not in changes)
