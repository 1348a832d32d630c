"""FlashAttention-3's backward: tiles, what warpgroups divide, what a block occupies, refusals.

Source: Dao-AILab/flash-attention at 0251105a, hopper/, and the sm_90a binaries of xformers 0.0.32.
"""

from dataclasses import replace

import pytest

from fasim.hardware import load
from fasim.problem import Attention
from fasim.readings.footprint import footprint
from fasim.schedules import catalog
from fasim.schedules.language import Kernel
from fasim.schedules.plan import Options, Refused
from fasim.schedules.record import record
from fasim.schedules.residency import block_use, residency, staged_operands

HOPPER = load("h100").gpu


def problem_of(head_dim: int, causal: bool = False, **kwargs: object) -> Attention:
    return Attention(2, 16, 4096, 4096, head_dim, causal=causal, direction="backward", **kwargs)  # type: ignore[arg-type]


def main_kernel(problem: Attention, options: Options | None = None) -> Kernel:
    plan = catalog.plan(problem, HOPPER, implementation="flash-attn-3", options=options)
    return next(kernel for kernel in plan.kernels if kernel.name == "flash3_backward")


@pytest.mark.parametrize(
    ("head_dim", "causal", "tile", "threads", "shared_bytes", "buffers"),
    [
        (64, False, (128, 128), 384, 198_656, 2),
        (64, True, (128, 128), 384, 198_656, 2),
        (96, True, (64, 128), 384, 156_672, 2),
        # The package lays LSE and delta of 80 rows out as 128: 768 bytes more.
        (128, False, (80, 128), 384, 231_424 - 768, 2),
        (128, True, (64, 128), 384, 197_632, 2),
        (192, False, (64, 96), 512, 222_208, 1),
        (256, True, (64, 80), 384, 201_728, 1),
    ],
)
def test_the_table_of_the_package(
    head_dim: int,
    causal: bool,
    tile: tuple[int, int],
    threads: int,
    shared_bytes: int,
    buffers: int,
) -> None:
    """Shared memory follows from what passes through it; it is the compiled kernels'."""
    kernel = main_kernel(problem_of(head_dim, causal))
    assert (kernel.tiles["q"], kernel.tiles["k"]) == tile
    assert kernel.mapping.buffer_count("Q") == 2
    assert kernel.mapping.buffer_count("dO") == buffers
    use = block_use(record(kernel))
    assert (use.threads, use.shared_memory_bytes) == (threads, shared_bytes)
    assert use.registers_per_thread == (128 if head_dim == 192 else 168)
    assert use.spilled_in_loop == 0
    assert residency(use, HOPPER).blocks_per_sm == 1


def test_a_window_takes_the_masked_tile() -> None:
    kernel = main_kernel(problem_of(128, window=(512, 0)))
    assert (kernel.tiles["q"], kernel.tiles["k"]) == (64, 128)
    assert kernel.mapping.block_order == "grid"
    both = main_kernel(problem_of(128, causal=True, window=(512, 0)))
    assert both.mapping.block_order == "grid"


@pytest.mark.parametrize("head_dim", [64, 96, 128, 192, 256])
def test_p_and_ds_stay_in_registers_where_keys_divide_among_warpgroups(head_dim: int) -> None:
    kernel = main_kernel(problem_of(head_dim))
    mapping, recorded = kernel.mapping, record(kernel)
    kept = head_dim <= 128
    assert ({"dV", "dK"} <= set(mapping.operands_in_registers)) == kept
    assert ({"S", "dP"} <= set(mapping.transposed_matmuls)) == kept
    # What passes through shared memory: dS for dQ, and P and dS where they are not kept.
    staged = [op for op in staged_operands(recorded) if op.iteration == 0]
    assert len(staged) == (1 if kept else 2)


@pytest.mark.parametrize("head_dim", [64, 96, 128, 192, 256])
@pytest.mark.parametrize("causal", [False, True])
def test_warpgroups_multiply_whole_instructions_and_nothing_twice(
    head_dim: int, causal: bool
) -> None:
    kernel = main_kernel(problem_of(head_dim, causal))
    mapping = kernel.mapping
    products = [op for op in record(kernel).once() if op.kind == "matmul"]
    assert len(products) == 5
    for op in products:
        rows, columns = mapping.warpgroup_tile(op.shape, op.name)
        assert rows % 64 == 0
        assert columns % 8 == 0
        assert rows * columns * mapping.warpgroups == op.elements


def test_dq_is_added_by_tma_but_for_the_widest_heads() -> None:
    assert main_kernel(problem_of(128)).mapping.bulk_reduced == ("dQ_accum",)
    assert main_kernel(problem_of(256)).mapping.bulk_reduced == ()


def test_causal_blocks_go_longest_first_without_a_counter() -> None:
    plain, causal = (main_kernel(problem_of(128, c)).mapping for c in (False, True))
    assert (plain.block_order, causal.block_order) == ("grid", "longest-first")
    assert causal.section_bytes == 40 * 2**20
    assert causal.extra_launches == 0
    assert not causal.persistent


def test_device_memory_of_the_sums() -> None:
    """dQ in FP32, a second LSE and delta; dK and dV in FP32 by key head where heads share."""
    problem = problem_of(128, kv_heads=4)
    plan = catalog.plan(problem, HOPPER, "flash3")
    found = footprint(plan.kernels).by_tensor
    query, key = 2 * 16 * 4096 * 128, 2 * 4 * 4096 * 128
    assert found["dQ_accum"] == 4 * query
    assert found["dK_accum"] == found["dV_accum"] == 4 * key
    assert found["LSE_log2"] == found["delta"] == 4 * 2 * 16 * 4096
    alone = catalog.plan(replace(problem, kv_heads=16), HOPPER, "flash3")
    assert "dK_accum" not in footprint(alone.kernels).by_tensor


# Options and refusals.


def test_other_tiles_warps_and_stages() -> None:
    options = Options((64, 64), warps=4, stages=3)
    kernel = main_kernel(problem_of(64), options)
    assert (kernel.tiles["q"], kernel.tiles["k"], kernel.mapping.warps) == (64, 64, 4)
    assert kernel.mapping.buffer_count("Q") == kernel.mapping.buffer_count("dO") == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            Options((48, 48)),
            "flash3: backward tile 48x48 of head_dim 128: 2 warpgroups cannot divide its "
            "products, 64 rows or 64 columns each",
        ),
        (Options(warps=6), "flash3: 6 warps are no whole warpgroups; 4, 8, 12 would work"),
    ],
)
def test_options_that_cannot_be(options: Options, message: str) -> None:
    with pytest.raises(Refused) as refused:
        catalog.plan(problem_of(128), HOPPER, "flash3", options=options)
    assert str(refused.value) == message


@pytest.mark.parametrize("gpu", ["a100", "rtx4090", "b200-sxm"])
@pytest.mark.parametrize("direction", ["backward", "both"])
def test_other_gpus_are_refused(gpu: str, direction: str) -> None:
    problem = replace(problem_of(128), direction=direction)
    with pytest.raises(Refused, match="flash-attn-3: it needs wgmma and tma") as refused:
        catalog.plan(problem, load(gpu).gpu, implementation="flash-attn-3")
    assert "\n" not in str(refused.value)


def test_one_byte_types_run_forward() -> None:
    with pytest.raises(Refused, match="flash3: direction is backward; fp8 runs forward"):
        catalog.plan(problem_of(128, dtype="fp8"), HOPPER, "flash3")


def test_both_directions_are_one_chain() -> None:
    plan = catalog.plan(replace(problem_of(128), direction="both"), HOPPER, "flash3")
    assert plan.tile == (128, 176)
    assert plan.assumptions == ("backward takes the tile 80x128",)
    assert [kernel.name for kernel in plan.kernels] == [
        "flash3_forward",
        "preprocess",
        "flash3_backward",
        "convert_dq",
    ]
