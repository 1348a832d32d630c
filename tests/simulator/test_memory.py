from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasim.hardware import load, shipped
from fasim.problem import Attention
from fasim.readings.traffic import total, traffic
from fasim.schedules.catalog import plan
from fasim.schedules.plan import Refused
from fasim.schedules.record import cached_record
from fasim.simulator.memory import (
    Residency,
    copies,
    memory_traffic,
    miss_share,
    residency_after,
)

MIB = 2**20


@given(capacity=st.floats(1, 1e12), fill=st.floats(0, 1))
def test_nothing_misses_while_the_set_fits(capacity, fill):
    assert miss_share(capacity * fill, capacity) == 0


@given(a=st.floats(0, 100), b=st.floats(0, 100))
def test_a_larger_set_misses_more_and_never_always(a, b):
    low, high = sorted((a, b))
    assert 0 <= miss_share(low, 1.0) <= miss_share(high, 1.0) <= 1


def test_misses_grow_without_a_cliff():
    shares = [miss_share(1 + step / 1000, 1.0) for step in range(4000)]
    assert shares[1] < 0.01
    assert max(after - before for before, after in pairwise(shares)) < 0.003
    assert shares[1000] == pytest.approx(0.797, abs=0.001)  # 1 − m = exp(−2m)
    assert miss_share(100, 1.0) == pytest.approx(1)


def chain(schedule="flash2", gpu_name="a100", problem=None, implementation=None):
    gpu = load(gpu_name).gpu
    problem = problem or Attention(2, 8, 2048, 2048, 64)
    kernels = plan(problem, gpu, schedule, implementation=implementation).kernels
    return gpu, list(zip(map(cached_record, kernels), traffic(kernels).kernels, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    gpu=st.sampled_from(sorted(shipped())),
    schedule=st.sampled_from(("standard", "flash1", "flash2")),
    heads=st.sampled_from((1, 4, 16)),
    grouped=st.booleans(),
    seqlens=st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
    head_dim=st.sampled_from((32, 40, 64, 128)),
    causal=st.booleans(),
    slots=st.integers(1, 1000),
    share=st.floats(0, 1),
)
def test_the_levels_keep_their_order(
    gpu, schedule, heads, grouped, seqlens, head_dim, causal, slots, share
):
    kv_heads = 1 if grouped else heads
    problem = Attention(2, heads, *seqlens, head_dim, kv_heads=kv_heads, causal=causal)
    try:
        gpu_, kernels = chain(schedule, gpu, problem)
    except Refused:
        return
    for record, exact in kernels:
        resident = Residency(dict.fromkeys(exact.global_, share))
        memory = memory_traffic(record, exact, gpu_, slots, resident)
        in_l2, in_dram = total(memory.l2), total(memory.dram)
        fresh = total(exact.compulsory).read_bytes - memory.resident_bytes
        assert in_dram.read_bytes >= fresh - len(memory.dram)  # each tensor's are rounded
        assert in_l2.read_bytes >= total(exact.global_).read_bytes
        for name in memory.dram:
            assert memory.dram[name].read_bytes <= memory.l2[name].read_bytes + 1
            assert memory.dram[name].write_bytes <= memory.l2[name].write_bytes


def test_what_lies_in_l2_is_not_read_again():
    gpu, [(record, exact)] = chain()
    cold = memory_traffic(record, exact, gpu, 216, Residency({}))
    warm = memory_traffic(record, exact, gpu, 216, Residency({"K": 1.0, "V": 0.5}))
    assert cold.resident_bytes == 0
    size = exact.compulsory["K"].read_bytes
    assert cold.dram["K"].read_bytes == size  # read once: all of it fits A100's L2
    assert warm.dram["K"].read_bytes == 0
    assert warm.dram["V"].read_bytes == size // 2
    assert warm.resident_bytes == size + size // 2
    assert warm.l2 == cold.l2


def test_small_outputs_stay_in_l2_and_large_ones_are_written_back():
    gpu, kernels = chain("standard", problem=Attention(1, 1, 1024, 1024, 64))
    assert memory_traffic(*kernels[0], gpu, 216, Residency({})).dram["S"].write_bytes == 0
    gpu, kernels = chain("standard", problem=Attention(8, 16, 2048, 2048, 64))
    written = memory_traffic(*kernels[0], gpu, 216, Residency({})).dram["S"].write_bytes
    assert written == pytest.approx(8 * 16 * 2048 * 2048 * 2, rel=0.01)


def test_rows_shorter_than_a_sector_move_whole_sectors():
    gpu, [(record, exact)] = chain(problem=Attention(1, 1, 256, 256, 40))
    memory = memory_traffic(record, exact, gpu, 216, Residency({}))
    assert gpu.l2.sector_bytes == 32
    assert memory.l2["K"].read_bytes * 80 == exact.global_["K"].read_bytes * 96


def test_a_transposed_copy_reads_a_sector_an_element():
    """Of a 32-byte sector two bytes are taken: lanes go along K's keys, and along dK's columns."""
    problem = Attention(1, 1, 1024, 1024, 64, direction="both")
    gpu, kernels = chain(None, problem=problem, implementation="pytorch")
    by_name = {record.kernel.name: (record, exact) for record, exact in kernels}
    for name, source, target, sectors in (
        ("copy_K", "K", "K_copy", 16),
        ("stack_gradients", "dK_copy", "dK", 16),
        ("stack_gradients", "dV_copy", "dV", 1),
    ):
        record, exact = by_name[name]
        moved = memory_traffic(record, exact, gpu, 1728, Residency({}))
        assert moved.l2[source].read_bytes == sectors * exact.global_[source].read_bytes
        assert moved.l2[target].write_bytes == exact.global_[target].write_bytes
        assert moved.dram[source].read_bytes == exact.compulsory[source].read_bytes


def test_a_small_kernel_leaves_what_it_touched_and_a_large_one_sweeps_it_out():
    gpu, [(record, exact)] = chain(problem=Attention(1, 1, 256, 256, 64))
    before = Residency({"earlier": 0.5})
    after = residency_after(record, exact, gpu, 216, before)
    assert after.of("earlier") == 0.5
    assert after.of("K") == 1
    assert after.of("never seen") == 0
    gpu, [(record, exact)] = chain(problem=Attention(16, 32, 4096, 4096, 128))
    after = residency_after(record, exact, gpu, 216, before)
    assert after.of("earlier") == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "set_mb", "rate"),
    # te42kyfo/gpu-benches, gpu-l2-cache: sets over half of L2, at more than DRAM gives.
    [("a100", 30, 4.0e12), ("h100-pcie", 40, 5.7e12)],
)
def test_sets_over_half_of_l2_hit_as_often_as_was_measured(name, set_mb, rate):
    gpu = load(name).gpu
    pins, capacity = gpu.dram.bandwidth_bytes_per_s, gpu.l2.capacity_bytes
    held = copies(1, gpu) * set_mb * 1e6
    assert 0 < miss_share(held, capacity) * rate <= pins
    assert miss_share(2 * set_mb * 1e6, capacity) * rate > pins  # if both halves held all of it


def test_a_line_has_a_copy_in_each_partition_that_reads_it():
    a100, ada = load("a100").gpu, load("rtx4090").gpu
    assert [copies(readers, a100) for readers in (0, 1, 2)] == [1, 1.5, 1.75]
    assert copies(1000, a100) == pytest.approx(2)
    assert copies(1000, ada) == 1


def test_what_is_written_again_in_l2_is_written_back_once():
    """FlashAttention-1's O: written at every step over K/V, read at the next."""
    for batch, again in ((1, 0.0), (64, 1.0)):
        gpu, [(record, exact)] = chain("flash1", problem=Attention(batch, 16, 1024, 1024, 64))
        moved = memory_traffic(record, exact, gpu, 16 * batch, Residency({})).dram["O"]
        size = exact.compulsory["O"].write_bytes
        rewritten = exact.global_["O"].write_bytes - size
        assert rewritten > 2 * size
        assert moved.write_bytes == pytest.approx(size * (batch > 1) + again * rewritten, rel=0.02)
