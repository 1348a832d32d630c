"""vLLM's call: what its machine code says, put together by hand."""

import pytest

from fasim.hardware import Gpu
from fasim.problem import Attention
from fasim.schedules import catalog, split_kv
from fasim.schedules.implementations import vllm
from fasim.schedules.plan import Options, Plan
from fasim.schedules.record import record
from fasim.schedules.residency import block_use, residency


def served(problem: Attention, gpu: Gpu) -> Plan:
    options = Options(page_size=16, writes_kv=True)
    return catalog.plan(problem, gpu, implementation="flash-attn-2", options=options)


@pytest.mark.parametrize(
    ("kv_heads", "warps", "instructions", "lookups"),
    [
        (1, 4, 222 + 3 * 114, 1),  # 16 vectors: half a warp moves
        (4, 16, 2 * 222 + 14 * 114, 1),
        (16, 16, 8 * 222 + 8 * 114, 1),
        (64, 16, 16 * (222 + 28), 3),  # two vectors a thread: K twice, V twice
    ],
)
def test_warps_with_nothing_to_move_issue_half_of_the_instructions(
    kv_heads: int, warps: int, instructions: int, lookups: int
) -> None:
    problem = Attention(2, kv_heads, 1, 64, 128)
    mapping = vllm.cache_write(problem)
    assert mapping.instructions_per_element is not None
    issued = mapping.instructions_per_element * kv_heads * 128 / 32
    assert (mapping.warps, issued, mapping.lookups) == (warps, pytest.approx(instructions), lookups)


@pytest.mark.parametrize(("kv_heads", "blocks"), [(1, 9), (2, 4), (4, 2), (32, 2)])
def test_an_sm_holds_few_blocks_that_write_the_cache(a100: Gpu, kv_heads: int, blocks: int) -> None:
    """54 registers, allotted as 56: a block of 512 threads takes 28,672 of 65,536."""
    problem = Attention(1, kv_heads, 8, 64, 128)
    kernel = split_kv.write_kernel(problem, vllm.cache_write(problem))
    found = residency(block_use(record(kernel)), a100)
    assert (found.blocks_per_sm, found.limiter) == (blocks, "registers")


def test_what_is_copied_is_said(a100: Gpu) -> None:
    copied = "as in vLLM's mha_varlen_fwd, O is copied into the caller's tensor"
    both = copied.replace("O is", "Q is copied into rows of folded heads, and O is")
    for batch, said in ((1, copied), (2, both)):
        assert said in served(Attention(batch, 16, 1, 256, 128, 8), a100).assumptions
    assert not any(
        "mha_varlen_fwd" in each
        for each in served(Attention(1, 16, 256, 256, 128, 2), a100).assumptions
    )


def test_a_copy_that_changes_no_order_is_not_strided(a100: Gpu) -> None:
    alone, several = (
        served(Attention(batch, 16, 1, 128, 128, 8), a100).kernels for batch in (1, 64)
    )
    (memcpy,) = (kernel.mapping for kernel in alone if kernel.name == "copy_O_rows")
    (strided,) = (kernel.mapping for kernel in several if kernel.name == "copy_O_rows")
    assert (memcpy.start_cycles, memcpy.lookups) == (None, 0)
    assert (strided.start_cycles, strided.lookups) == (800, 3)  # an element behind the other
    assert strided.instructions_per_element == 207 / 4


def test_what_was_counted_of_a_paged_kernel_is_not_said_of_others(a100: Gpu) -> None:
    problem = Attention(1, 16, 1, 8192, 128, 8)
    plain = catalog.plan(problem, a100, implementation="flash-attn-2").kernels[0].mapping
    textbook = catalog.plan(problem, a100, "split_kv", options=Options(page_size=16))
    (paged,) = (each.mapping for each in served(problem, a100).kernels if each.name == "split_kv")
    assert (paged.start_cycles, paged.overhead, paged.lookups) == (1231, (99, 32, 31), 1)
    assert (plain.start_cycles, plain.overhead, plain.lookups) == (1231, None, 0)
    assert {each.mapping.start_cycles for each in textbook.kernels} == {None}
