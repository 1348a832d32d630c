"""FlashAttention-3's tiles, mappings and refusals.

Sources: tiles, shared memory, registers and launch rules from Dao-AILab/flash-attention at
0251105a, hopper/, and the sm_90a binaries of xformers 0.0.32.
"""

import pytest

from fasim.hardware import Gpu, load
from fasim.problem import Attention, ProblemError
from fasim.schedules import catalog
from fasim.schedules.language import Kernel
from fasim.schedules.plan import Options, Refused
from fasim.schedules.record import record
from fasim.schedules.residency import Residency, block_use, residency

HOPPER = load("h100").gpu


def kernel_of(
    problem: Attention, name: str = "flash-attn-3", options: Options | None = None
) -> Kernel:
    (kernel,) = catalog.plan(problem, HOPPER, implementation=name, options=options).kernels
    return kernel


def problem_of(head_dim: int, causal: bool = False, dtype: str = "fp16") -> Attention:
    return Attention(2, 16, 4096, 4096, head_dim, causal=causal, dtype=dtype)  # type: ignore[arg-type]


def refusal(problem: Attention, gpu: Gpu = HOPPER, **kwargs: object) -> str:
    with pytest.raises(Refused) as refused:
        catalog.plan(problem, gpu, **kwargs)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("head_dim", "dtype", "causal", "tile", "shared_bytes", "p_in_registers", "ping_pong"),
    [
        (64, "fp16", False, (192, 192), 196_608, False, True),
        (64, "bf16", True, (192, 128), 90_112, True, True),
        (96, "fp16", False, (192, 144), 202_752, False, True),
        (96, "fp16", True, (192, 144), 202_752, False, True),
        (128, "fp16", False, (128, 176), 212_992, True, True),
        (128, "bf16", True, (128, 128), 163_840, True, True),
        (192, "fp16", True, (128, 112), 221_184, True, False),
        (256, "fp16", False, (128, 80), 229_376, True, False),
        (64, "fp8", False, (192, 160), 77_824, True, False),
        (96, "fp8", True, (192, 128), 104_448, True, False),
        (128, "fp8", True, (128, 224), 188_416, True, True),
        (192, "fp8", False, (128, 160), 208_896, True, True),
        (256, "fp8", False, (128, 128), 229_376, True, True),
    ],
)
def test_the_table_of_the_package(
    head_dim: int,
    dtype: str,
    causal: bool,
    tile: tuple[int, int],
    shared_bytes: int,
    p_in_registers: bool,
    ping_pong: bool,
) -> None:
    """P's place follows from the registers; it is the compiled kernels' in all rows."""
    kernel = kernel_of(problem_of(head_dim, causal, dtype))
    assert (kernel.tiles["q"], kernel.tiles["k"]) == tile
    assert kernel.mapping.operands_in_registers == (("O",) if p_in_registers else ())
    assert kernel.mapping.ping_pong == ping_pong
    use = block_use(record(kernel))
    assert use.shared_memory_bytes == shared_bytes
    assert use.spilled_registers == 0
    assert residency(use, HOPPER).blocks_per_sm == 1


def test_threads_and_registers_are_those_of_the_binaries() -> None:
    """384 threads of 168 registers, or 512 of 128: never two blocks, whatever they share."""
    for head_dim, threads, registers in ((128, 384, 168), (64, 512, 128)):
        use = block_use(record(kernel_of(problem_of(head_dim, causal=True))))
        assert (use.threads, use.registers_per_thread) == (threads, registers)
    assert residency(use, HOPPER) == Residency(1, "registers")


def test_causal_blocks_go_longest_first_and_cost_a_launch_more() -> None:
    plain, causal = (kernel_of(problem_of(128, c)).mapping for c in (False, True))
    assert (plain.block_order, plain.extra_launches) == ("grid", 0)
    assert (causal.block_order, causal.extra_launches) == ("longest-first", 1)
    assert causal.section_bytes == 32 * 2**20
    assert plain.persistent
    assert causal.persistent


@pytest.mark.parametrize(
    ("problem", "shared"),
    [
        (problem_of(128), True),
        (problem_of(256), True),
        (problem_of(64), False),
        (problem_of(128, causal=True), False),
        (Attention(1, 1, 128 * 3, 4096, 128), False),  # an odd number of row tiles
        (Attention(1, 1, 128 * 3 + 1, 4096, 128), True),
        (problem_of(128, dtype="fp8"), False),
        (problem_of(192, dtype="fp8"), True),
    ],
)
def test_two_blocks_share_their_reads(problem: Attention, shared: bool) -> None:
    mapping = kernel_of(problem).mapping
    assert mapping.multicast == ((("K", 2), ("V", 2)) if shared else ())
    assert mapping.multicast_count("K") == (2 if shared else 1)
    assert mapping.multicast_count("Q") == 1


def test_the_output_of_one_byte_inputs_is_declared_as_bf16() -> None:
    kernel = kernel_of(problem_of(128, dtype="fp8"))
    assert {t.name: t.dtype for t in kernel.tensors} == {
        "Q": "fp8", "K": "fp8", "V": "fp8", "O": "bf16", "LSE": "fp32",
    }  # fmt: skip
    said = catalog.plan(problem_of(128, dtype="fp8"), HOPPER, "flash3").assumptions
    assert said == ("O of fp8 inputs is stored as bf16",)


def test_cudnn_is_the_published_kernel_and_says_so() -> None:
    plan = catalog.plan(problem_of(128), HOPPER, implementation="cudnn")
    (kernel,) = plan.kernels
    assert plan.schedule == "flash3"
    assert "stands in" in plan.assumptions[0]
    assert plan.tile == (128, 128)
    assert not kernel.descending
    assert kernel.mapping.block_order == "grid"
    assert kernel.mapping.threads == 384
    # Q, K and V in two buffers each: 6 × 128 × 128 halves.
    assert block_use(record(kernel)).shared_memory_bytes == 196_608


# Options and refusals.


@pytest.mark.parametrize("names", [{"schedule": "flash3"}, {"implementation": "flash-attn-3"}])
def test_other_tiles_and_stages(names: dict[str, str]) -> None:
    plan = catalog.plan(
        problem_of(128), HOPPER, **names, options=Options((64, 96), warps=4, stages=3)
    )
    mapping = plan.kernels[0].mapping
    assert (plan.tile, mapping.warps, mapping.buffers) == (
        (64, 96), 4, (("Q", 1), ("K", 3), ("V", 3)),
    )  # fmt: skip
    assert not mapping.ping_pong  # nobody to take turns with


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            Options((96, 64)),
            "flash3: tile 96x64: a warpgroup takes 64 rows of Q; 64, 128, 192 would work",
        ),
        (
            Options((256, 64)),
            "flash3: tile 256x64: a warpgroup takes 64 rows of Q; 64, 128, 192 would work",
        ),
        (
            Options(warps=4),
            "flash3: tile 128x176 on 4 warps: a warpgroup takes 64 rows of Q; 8 would work",
        ),
    ],
)
def test_options_that_cannot_be(options: Options, message: str) -> None:
    assert refusal(problem_of(128), schedule="flash3", options=options) == message


def test_stages_that_do_not_fit() -> None:
    fault = "tile 128x176 needs 296.0 KiB of shared memory a block, h100-sxm5 has 227 KiB"
    options = Options(stages=3)
    message = refusal(problem_of(128), implementation="flash-attn-3", options=options)
    assert message == f"flash-attn-3: {fault}; the largest that fits is 128x128"
    plan = catalog.plan(problem_of(128), HOPPER, "flash3", options=options)
    assert plan.assumptions == (f"{fault}; 128x128 instead",)


def test_options_that_others_do_not_take() -> None:
    problem = problem_of(128)
    assert refusal(problem, implementation="cudnn", options=Options((128, 128))) == (
        "cudnn: it takes no --tile"
    )
    assert refusal(problem, implementation="flash-attn-2", options=Options(stages=2)) == (
        "flash-attn-2: it takes no --stages, only --tile and --warps"
    )
    assert refusal(problem, schedule="standard", options=Options(warps=4)) == (
        "standard: it takes no --warps, only --tile"
    )
    with pytest.raises(ProblemError, match="stages is 0"):
        Options(stages=0)


def test_flash2_takes_other_warps_and_stages(a100: Gpu) -> None:
    (kernel,) = catalog.plan(
        problem_of(128), a100, "flash2", options=Options(warps=8, stages=2)
    ).kernels
    assert kernel.mapping.warps == 8
    assert kernel.mapping.buffer_count("K") == 2
    assert refusal(
        problem_of(128), a100, schedule="flash2", options=Options((64, 64), warps=3)
    ) == ("flash2: 3 warps cannot share 64 rows, a multiple of 16 each; 1, 2, 4 would work")


@pytest.mark.parametrize(
    ("gpu", "has"), [("a100", "cp_async"), ("b200-sxm", ""), ("rtx4090", "cp_async, fp8")]
)
@pytest.mark.parametrize(
    "names",
    [{"schedule": "flash3"}, {"implementation": "flash-attn-3"}, {"implementation": "cudnn"}],
)
def test_other_gpus_are_refused(gpu: str, has: str, names: dict[str, str]) -> None:
    message = refusal(problem_of(128), load(gpu).gpu, **names)
    assert message.startswith(f"{next(iter(names.values()))}: it needs wgmma and tma; {gpu}")
    assert message.endswith(has)


def test_what_they_do_not_take() -> None:
    assert refusal(problem_of(128, dtype="fp32"), schedule="flash3") == (
        "flash3: it takes fp16, bf16 and fp8, not fp32"
    )
    assert refusal(problem_of(320), schedule="flash3") == (
        "flash3: it takes head_dim up to 256, not 320"
    )
    assert refusal(problem_of(256), implementation="cudnn") == (
        "cudnn: it takes head_dim up to 128, not 256"
    )
