"""Plans by name, and refusals: what was asked, what there is, what would work."""

import pytest

from fasim.hardware import Gpu, load, with_overrides
from fasim.problem import Attention, Direction, ProblemError
from fasim.schedules import catalog
from fasim.schedules.fit import overflow
from fasim.schedules.implementations.ptxas import guards_fragments
from fasim.schedules.plan import Options, Refused
from fasim.schedules.record import record
from fasim.schedules.residency import block_use, residency

PROBLEM = Attention(1, 16, 4096, 4096, 64)


def refusal(*args: object, **kwargs: object) -> str:
    with pytest.raises(Refused) as refused:
        catalog.plan(*args, **kwargs)
    message = str(refused.value)
    assert "\n" not in message
    return message


def small_gpu(kib: int) -> Gpu:
    return with_overrides(load("a100"), {"shared_memory.max_per_block": f"{kib} KiB"}).gpu


# Plans.


def test_without_a_name_it_is_flash2(a100: Gpu) -> None:
    assert catalog.plan(PROBLEM, a100).schedule == "flash2"


@pytest.mark.parametrize(
    ("gpu", "head_dim", "causal", "tile", "warps"),
    [
        # flash_fwd_launch_template.h of v2.8.3, without dropout.
        ("a100", 32, False, (128, 128), 4),
        ("h100", 64, True, (128, 128), 4),
        ("a100", 96, True, (128, 64), 4),
        ("rtx4090", 96, False, (128, 64), 4),
        ("rtx4090", 96, True, (64, 64), 4),
        ("a100", 128, False, (128, 64), 4),
        ("l40s", 128, False, (128, 32), 4),
        ("l40s", 128, True, (64, 64), 4),
        ("h100", 192, False, (128, 64), 8),
        ("a100", 256, False, (128, 64), 8),
        ("h100", 256, False, (64, 64), 4),
        ("rtx3090", 256, False, (64, 64), 4),
        # Compiled for the next head dimension up.
        ("a100", 80, False, (128, 64), 4),
        ("a100", 8, False, (128, 128), 4),
    ],
)
def test_flash_attn_2_takes_the_tiles_of_its_table(
    gpu: str, head_dim: int, causal: bool, tile: tuple[int, int], warps: int
) -> None:
    problem = Attention(4, 16, 1024, 1024, head_dim, causal=causal)
    plan = catalog.plan(problem, load(gpu).gpu, implementation="flash-attn-2")
    (kernel,) = plan.kernels
    assert plan.schedule == "flash2"
    assert plan.tile == tile == (kernel.tiles["q"], kernel.tiles["k"])
    assert kernel.mapping.warps == warps
    assert kernel.descending == {"k"}


@pytest.mark.parametrize(
    ("gpu", "head_dim", "tile", "shared_memory_kib"),
    [
        # flash_bwd_launch_template.h of v2.8.3, without dropout; eight warps each.
        ("a100", 32, (128, 128), 96),
        ("h100", 64, (128, 128), 144),
        ("rtx4090", 64, (64, 128), 72),
        ("a100", 96, (64, 128), 92),
        ("a100", 128, (64, 128), 144),
        ("l40s", 128, (64, 64), 80),
        ("a100", 192, (64, 64), 136),
        ("h100", 256, (64, 64), 176),
        ("a100", 256, (64, 64), 144),
    ],
)
def test_flash_attn_2_backward_takes_the_tiles_of_its_table(
    gpu: str, head_dim: int, tile: tuple[int, int], shared_memory_kib: int
) -> None:
    problem = Attention(1, 8, 1024, 1024, head_dim, direction="backward")
    plan = catalog.plan(problem, load(gpu).gpu, implementation="flash-attn-2")
    main = plan.kernels[1]
    use = block_use(record(main))
    assert plan.tile == tile == (main.tiles["q"], main.tiles["k"])
    assert main.mapping.warps == 8
    assert main.descending == {"q"}
    assert use.shared_memory_bytes == shared_memory_kib * 1024
    assert residency(use, load(gpu).gpu).blocks_per_sm == 1


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
@pytest.mark.parametrize(("gpu", "guarded"), [("a100", True), ("rtx4090", True), ("h100", False)])
def test_flash_attn_2_guards_its_fragments_where_code_for_sm_80_runs(
    gpu: str, guarded: bool, direction: Direction
) -> None:
    problem = Attention(4, 16, 1024, 1024, 64, direction=direction)
    for name, expected in (("flash-attn-2", guarded), ("pytorch-flash", False)):
        kernels = catalog.plan(problem, load(gpu).gpu, implementation=name).kernels
        loops = [each for each in kernels if each.mapping.matrix_unit == "mma.sync"]
        assert loops
        assert {each.mapping.guarded_fragments for each in loops} == {expected}


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_triton_2_1_guards_its_fragments(direction: Direction) -> None:
    problem = Attention(4, 16, 1024, 1024, 64, direction=direction)
    kernels = catalog.plan(problem, load("a100").gpu, implementation="triton-2.1").kernels
    assert any(each.mapping.guarded_fragments for each in kernels)


def test_ptxas_guards_fragments_up_to_12_3_and_not_for_hopper() -> None:
    a100, h100 = load("a100").gpu, load("h100").gpu
    assert [guards_fragments(a100, version) for version in ((11, 8), (12, 3), (12, 4))] == [
        True,
        True,
        False,
    ]
    assert not guards_fragments(h100, (11, 8))


def test_flash_attn_2_backward_has_the_overhead_that_was_counted() -> None:
    """Of d = 64 on A100: PRMT for stores of halves, R2UR for addresses."""
    for gpu, head_dim, overhead in (("a100", 64, (73, 28, 51)), ("rtx4090", 64, (38, 11, 12))):
        problem = Attention(1, 8, 1024, 1024, head_dim, direction="backward")
        plan = catalog.plan(problem, load(gpu).gpu, implementation="flash-attn-2")
        assert plan.kernels[1].mapping.overhead == overhead


def test_a_head_dimension_between_two_kernels_is_said(a100: Gpu) -> None:
    problem = Attention(4, 16, 1024, 1024, 80)
    plan = catalog.plan(problem, a100, implementation="flash-attn-2")
    assert plan.assumptions == ("head_dim 80 runs in the kernel compiled for 96",)
    assert plan.kernels[0].tiles["d"] == 96


def test_head_dim_256_depends_on_shared_memory_and_not_on_the_architecture() -> None:
    """An A100 with an H100's shared memory holds two blocks of 64 × 64, and so takes them."""
    problem = Attention(4, 16, 1024, 1024, 256)
    larger = with_overrides(load("a100"), {"shared_memory.capacity": "228 KiB"}).gpu
    assert catalog.plan(problem, larger, implementation="flash-attn-2").tile == (64, 64)


def test_flash1_takes_the_tile_of_the_paper(a100: Gpu) -> None:
    # 163 KiB are 83,456 halves: ⌊83,456 / (4 · 64)⌋ = 326, in sixteens 320.
    assert catalog.plan(PROBLEM, a100, "flash1").tile == (64, 320)
    fp32 = Attention(1, 1, 64, 64, 128, dtype="fp32")
    # 41,728 floats: ⌊41,728 / 512⌋ = 81, in sixteens 80, fewer than d.
    assert catalog.plan(fp32, a100, "flash1").tile == (80, 80)


def test_a_short_row_is_a_warps_and_a_long_one_a_blocks(a100: Gpu) -> None:
    for seqlen_k, textbook, pytorch, rows in ((1024, 4, 4, 4), (1025, 8, 2, 1), (8192, 8, 16, 1)):
        for name, warps in (
            ({"schedule": "standard"}, textbook),
            ({"implementation": "pytorch"}, pytorch),
        ):
            plan = catalog.plan(Attention(1, 1, 64, seqlen_k, 64), a100, **name)
            (softmax,) = (kernel for kernel in plan.kernels if kernel.name == "softmax")
            assert (softmax.mapping.warps, softmax.tiles["q"]) == (warps, rows)


def test_hopper_multiplies_by_wgmma_and_ampere_by_mma_sync(a100: Gpu) -> None:
    for gpu, unit, step in ((a100, "mma.sync", 32), (load("h100").gpu, "wgmma", 64)):
        first = catalog.plan(PROBLEM, gpu, "standard").kernels[0]
        assert first.mapping.matrix_unit == unit
        assert first.tiles["d"] == step


@pytest.mark.parametrize("name", ["a100", "h100", "h200", "rtx3090", "rtx4090", "l4", "b200-sxm"])
def test_every_schedule_has_a_tile_that_fits_every_gpu(name: str) -> None:
    """flash3 where there is a Hopper to run it, and for types that its wgmma takes."""
    gpu = load(name).gpu
    for schedule in catalog.SCHEDULES:
        for head_dim in (16, 64, 100, 128, 256):
            for dtype in ("fp32", "bf16"):
                forward_only = schedule in ("decode", "split_kv")
                direction = "forward" if forward_only else "both"
                problem = Attention(1, 2, 300, 300, head_dim, dtype=dtype, direction=direction)
                if schedule == "flash3" and (gpu.architecture != "sm_90" or dtype == "fp32"):
                    assert "flash3: it " in refusal(problem, gpu, schedule)
                    continue
                plan = catalog.plan(problem, gpu, schedule)
                assert overflow(plan, gpu) is None


def test_a_schedule_without_a_fitting_usual_tile_takes_a_smaller_one_and_says_so() -> None:
    problem = Attention(1, 1, 1024, 1024, 256, dtype="fp32")
    gpu = load("a100").gpu
    plan = catalog.plan(problem, gpu, "flash2")
    assert plan.tile == (64, 48)
    assert plan.assumptions == (
        "tile 128x64 needs 256.0 KiB of shared memory a block, a100-sxm4-80gb has 163 KiB; "
        "64x48 instead",
    )


# Refusals.


def test_an_unknown_schedule_names_the_closest_and_all(a100: Gpu) -> None:
    names = ", ".join(catalog.NAMED_SCHEDULES)
    assert refusal(PROBLEM, a100, "flahs2") == (
        f"flahs2: unknown schedule; did you mean flash2? there are {names}"
    )
    assert refusal(PROBLEM, a100, "xyz") == (f"xyz: unknown schedule; there are {names}")


def test_an_unknown_implementation_too(a100: Gpu) -> None:
    assert refusal(PROBLEM, a100, implementation="flash-attn2") == (
        "flash-attn2: unknown implementation; did you mean flash-attn-2? "
        f"there are {', '.join(catalog.IMPLEMENTATIONS)}"
    )


def test_a_schedule_that_is_not_the_implementations(a100: Gpu) -> None:
    message = refusal(PROBLEM, a100, "standard", "flash-attn-2")
    assert message == "flash-attn-2: its schedule is flash2, not standard"
    assert catalog.plan(PROBLEM, a100, "flash2", "flash-attn-2").implementation == "flash-attn-2"
    assert "unknown schedule" in refusal(PROBLEM, a100, "flash", "flash-attn-2")


@pytest.mark.parametrize(
    ("problem", "names", "message"),
    [
        (
            Attention(1, 1, 64, 64, 320),
            {"implementation": "flash-attn-2"},
            "flash-attn-2: it takes head_dim up to 256, not 320",
        ),
        (
            Attention(1, 1, 64, 64, 64, dtype="fp32"),
            {"implementation": "flash-attn-2"},
            "flash-attn-2: it takes fp16 and bf16, not fp32",
        ),
        (
            Attention(1, 1, 64, 64, 64, dtype="fp8"),
            {"implementation": "pytorch"},
            "pytorch: it takes fp32, fp16 and bf16, not fp8",
        ),
        (
            Attention(1, 1, 64, 64, 64, dtype="fp8"),
            {"schedule": "flash2"},
            "flash2: a100-sxm4-80gb has no tensor cores for fp8, only fp32, bf16 and fp16",
        ),
        (
            Attention(1, 1, 64, 64, 64, dtype="fp8", direction="backward"),
            {"schedule": "flash2"},
            "flash2: direction is backward; fp8 runs forward",
        ),
        (
            Attention(1, 1, 64, 64, 72),
            {"implementation": "triton"},
            "triton: it takes head_dim 16, 32, 64 and 128, not 72",
        ),
    ],
)
def test_what_it_does_not_take(
    a100: Gpu, problem: Attention, names: dict[str, str], message: str
) -> None:
    assert refusal(problem, a100, **names) == message


def test_a_tile_that_does_not_fit_names_the_largest_that_does() -> None:
    # Q 128 and K, V 64 of 64 halves: 32 KiB. In 20 KiB: 96 rows of Q have no place, 64 + 2 · 48.
    gpu = small_gpu(20)
    message = refusal(PROBLEM, gpu, "flash2", options=Options((128, 64)))
    assert message == (
        "flash2: tile 128x64 needs 32.0 KiB of shared memory a block, a100-sxm4-80gb has 20 KiB; "
        "the largest that fits is 64x48"
    )
    assert catalog.plan(PROBLEM, gpu, "flash2", options=Options((64, 48))).tile == (64, 48)
    for larger in ((128, 32), (64, 64), (80, 48)):
        refusal(PROBLEM, gpu, "flash2", options=Options(larger))


def test_a_prescribed_tile_is_not_replaced() -> None:
    message = refusal(PROBLEM, small_gpu(20), implementation="flash-attn-2")
    assert message.startswith("flash-attn-2: tile 128x128 needs 48.0 KiB")
    assert message.endswith("the largest that fits is 64x48")


def test_a_head_too_wide_for_any_tile(a100: Gpu) -> None:
    message = refusal(Attention(1, 1, 64, 64, 8192), a100, "flash2")
    assert message.endswith("no tile fits head_dim 8192")


def test_registers_and_warps_limit_a_block_too() -> None:
    few = with_overrides(load("a100"), {"sm.registers": "16384"}).gpu
    message = refusal(PROBLEM, few, "flash2", options=Options((128, 128)))
    assert message == (
        "flash2: tile 128x128 needs more registers than an SM of a100-sxm4-80gb has; "
        "the largest that fits is 32x128"
    )


@pytest.mark.parametrize("schedule", catalog.SCHEDULES)
@pytest.mark.parametrize("tile", [(0, 64), (100, 64), (64, 8), (-16, 16)])
def test_impossible_tiles_are_refused_for_every_schedule(
    a100: Gpu, schedule: str, tile: tuple[int, int]
) -> None:
    with pytest.raises(ProblemError, match="must be a multiple of 16"):
        catalog.plan(PROBLEM, a100, schedule, options=Options(tile))


def test_a_huge_tile_is_refused_at_once(a100: Gpu) -> None:
    assert "the largest that fits is" in refusal(
        PROBLEM, a100, "flash2", options=Options((2**20, 2**20))
    )


@pytest.mark.parametrize("entries", [catalog.NAMED_SCHEDULES, catalog.IMPLEMENTATIONS])
def test_every_entry_says_what_it_is_and_needs(entries: dict[str, catalog.Entry]) -> None:
    for name, entry in entries.items():
        assert entry.name == name
        assert entry.schedule in catalog.NAMED_SCHEDULES
        assert entry.title
        assert entry.source
        assert entry.needs
