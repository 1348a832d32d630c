"""Who shares what in a grid, and how far apart."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasim.hardware import load
from fasim.problem import Attention
from fasim.readings.traffic import traffic
from fasim.schedules.catalog import plan
from fasim.schedules.plan import Options
from fasim.schedules.record import cached_record
from fasim.simulator.memory import Residency, memory_traffic
from fasim.simulator.sharing import sharing

A100 = load("a100").gpu
GROUPED = Attention(16, 32, 1024, 1024, 128, kv_heads=8)


def shared(implementation, tensor, problem=GROUPED, options=None):
    kernel = plan(problem, A100, None, implementation, options).kernels[-1]
    recorded = cached_record(kernel)
    return recorded, sharing(recorded, kernel.tensor(tensor))


def test_heads_of_a_group_are_a_whole_batch_apart_in_flash_attention_2():
    recorded, found = shared("flash-attn-2", "K")
    row_tiles = 1024 // recorded.kernel.tiles["q"]
    assert (found.near, found.far, found.distance) == (row_tiles, 4, 16 * row_tiles)
    assert (found.parts, found.part_bytes) == (16 * 8, 1024 * 128 * 2)


def test_without_splits_the_paged_kernel_goes_over_batch_before_heads():
    recorded, found = shared("flash-attn-2", "K", options=Options(page_size=16))
    assert recorded.kernel.grid == ("q", "batch", "head")
    assert found.far == 4


def test_parts_of_the_keys_and_rows_in_turns_are_nobody_elses():
    decode = Attention(1, 8, 1, 8192, 128)
    kernels = plan(decode, A100, None, "flash-attn-2", Options(num_splits=16)).kernels
    found = sharing(cached_record(kernels[0]), kernels[0].tensor("K"))
    assert (found.near, found.far, found.parts) == (1, 1, 8 * 16)
    turns = Attention(64, 16, 1024, 1024, 64)
    _, rows = shared("flash-attn-1", "O_tmp", turns, Options(num_splits=4))
    assert (rows.near, rows.far, rows.parts) == (1, 1, 64 * 16 * 4)
    _, keys = shared("flash-attn-1", "K", turns, Options(num_splits=4))
    assert (keys.near, keys.far, keys.distance) == (1, 4, 64 * 16)


def test_neighbours_share_in_a_head_first_grid():
    _, found = shared("xformers-cutlass", "K")
    assert (found.near, found.far) == (4 * 1024 // 64, 1)


@settings(max_examples=60, deadline=None)
@given(
    implementation=st.sampled_from(("flash-attn-2", "triton", "xformers-cutlass", "pytorch")),
    batch=st.integers(1, 9),
    group=st.sampled_from((1, 2, 4)),
    seqlen=st.integers(1, 3000),
    window=st.integers(1, 500),
)
def test_rows_and_parts_make_up_the_grid(implementation, batch, group, seqlen, window):
    problem = Attention(batch, 8, seqlen, seqlen, 64, kv_heads=8 // group)
    for kernel in plan(problem, A100, None, implementation).kernels:
        recorded = cached_record(kernel)
        for tensor in kernel.tensors:
            found = sharing(recorded, tensor)
            assert found.near * found.far * found.parts == pytest.approx(kernel.blocks)
            size = tensor.bytes(kernel.lengths)
            assert found.touched_bytes(kernel.blocks) == pytest.approx(size)
            assert found.part_bytes <= found.touched_bytes(window) * (1 + 1e-9)
            assert found.touched_bytes(window) <= size * (1 + 1e-9)


def test_keys_shared_far_apart_come_from_dram_again_once_the_batch_overflows_l2():
    def fetched(batch):
        problem = Attention(batch, 32, 1024, 1024, 128, kv_heads=8)
        kernels = plan(problem, A100, None, "flash-attn-2").kernels
        (exact,) = traffic(kernels).kernels
        moved = memory_traffic(cached_record(kernels[0]), exact, A100, 216, Residency({}))
        return moved.dram["K"].read_bytes / exact.compulsory["K"].read_bytes

    assert fetched(1) == 1
    assert 3.5 < fetched(512) <= 4
