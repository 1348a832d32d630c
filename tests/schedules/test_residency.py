"""Blocks an SM holds, against what is known of FlashAttention-2's compiled kernels.

Sources: tiles and shared memory from Dao-AILab/flash-attention v2.8.3,
csrc/flash_attn/src/flash_fwd_launch_template.h; registers from `cuobjdump -res-usage` of the
same kernels in PyTorch 2.x for sm_80; blocks an SM follow from both by NVIDIA's occupancy rules.
"""

from dataclasses import dataclass, replace

import pytest

from fasim.hardware import Gpu, load, with_overrides
from fasim.problem import Attention
from fasim.schedules import catalog
from fasim.schedules.language import Kernel
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Options
from fasim.schedules.record import record
from fasim.schedules.residency import BlockUse, Residency, block_use, residency
from fasim.schedules.standard import Gemm, probability_value_kernel


@dataclass(frozen=True)
class Known:
    """A compiled forward kernel; `prescribed` tiles are those without dropout."""

    gpu: str
    head_dim: int
    causal: bool
    tile: tuple[int, int]
    shared_memory_bytes: int
    blocks_per_sm: int
    registers: tuple[int, int]
    prescribed: bool = True


KNOWN = [
    *(
        Known(gpu, 32, causal, (128, 128), 24576, 2, (254, 255))
        for gpu in ("a100", "h100", "rtx3090", "rtx4090")
        for causal in (False, True)
    ),
    *(
        Known(gpu, 64, causal, (128, 128), 49152, 2, (255, 255))
        for gpu in ("a100", "h100", "rtx3090", "rtx4090")
        for causal in (False, True)
    ),
    Known("a100", 96, True, (128, 64), 49152, 2, (248, 255)),
    Known("h100", 96, False, (128, 64), 49152, 2, (248, 255)),
    Known("rtx3090", 96, False, (128, 64), 49152, 2, (252, 255)),
    Known("rtx4090", 96, True, (64, 64), 36864, 2, (150, 166)),
    Known("a100", 128, False, (128, 64), 65536, 2, (255, 255)),
    Known("h100", 128, True, (128, 64), 65536, 2, (255, 255)),
    Known("rtx3090", 128, False, (128, 32), 49152, 2, (254, 255)),
    Known("rtx4090", 128, True, (64, 64), 49152, 2, (184, 190)),
    Known("a100", 192, False, (128, 64), 98304, 1, (220, 236)),
    Known("h100", 192, True, (128, 64), 98304, 1, (220, 236)),
    Known("rtx4090", 192, False, (128, 64), 98304, 1, (220, 236)),
    Known("a100", 256, False, (128, 64), 131072, 1, (254, 255)),
    Known("h100", 256, True, (64, 64), 98304, 2, (254, 255)),
    Known("rtx3090", 256, False, (64, 64), 98304, 1, (254, 255)),
    Known("rtx4090", 256, True, (64, 64), 98304, 1, (254, 255)),
    # Tiles that the package takes with dropout.
    Known("a100", 64, False, (128, 64), 32768, 2, (254, 255), prescribed=False),
    Known("h100", 128, False, (128, 32), 49152, 2, (255, 255), prescribed=False),
    Known("a100", 192, False, (64, 64), 73728, 2, (230, 254), prescribed=False),
    Known("rtx4090", 192, False, (64, 64), 73728, 1, (230, 254), prescribed=False),
]


def kernel_of(known: Known, tile: tuple[int, int] | None = None) -> tuple[Kernel, Gpu]:
    gpu = load(known.gpu).gpu
    problem = Attention(1, 1, 1024, 1024, known.head_dim, causal=known.causal)
    (kernel,) = catalog.plan(
        problem, gpu, implementation="flash-attn-2", options=Options(tile, num_splits=1)
    ).kernels
    return kernel, gpu


def registers_agree(known: Known, estimated: int) -> bool:
    """Within two allocation units of eight of the compiled range."""
    low, high = known.registers
    return low - 16 <= estimated <= high + 16


@pytest.mark.parametrize("known", KNOWN, ids=lambda k: f"{k.gpu}-{k.head_dim}-{k.tile}-{k.causal}")
def test_known_blocks_per_sm_and_shared_memory(known: Known) -> None:
    kernel, gpu = kernel_of(known, None if known.prescribed else known.tile)
    assert (kernel.tiles["q"], kernel.tiles["k"]) == known.tile
    use = block_use(record(kernel))
    assert use.shared_memory_bytes == known.shared_memory_bytes
    assert residency(use, gpu).blocks_per_sm == known.blocks_per_sm


def test_most_register_estimates_are_those_of_the_compiler() -> None:
    """The estimate knows accumulators and fragments, not what dropout's Philox keeps."""
    agreeing = 0
    for known in KNOWN:
        kernel, _ = kernel_of(known, None if known.prescribed else known.tile)
        agreeing += registers_agree(known, block_use(record(kernel)).registers_per_thread)
    assert agreeing / len(KNOWN) >= 0.95


def use_of(threads: int = 128, shared: int = 0, registers: int = 32) -> BlockUse:
    return BlockUse(threads, shared, registers, spilled_registers=0)


def test_each_limit_by_hand(a100: Gpu) -> None:
    """A100: 164 KiB and 1 KiB reserved a block, 65,536 registers, 64 warps, 32 blocks."""
    assert residency(use_of(32), a100) == Residency(32, "block slots")
    assert residency(use_of(256), a100) == Residency(8, "registers")
    assert residency(use_of(256, registers=16), a100) == Residency(8, "warps")
    assert residency(use_of(registers=256), a100) == Residency(2, "registers")
    assert residency(use_of(shared=81 * 1024), a100) == Residency(2, "shared memory")
    assert residency(use_of(shared=81 * 1024 + 1), a100) == Residency(1, "shared memory")
    assert residency(use_of(shared=163 * 1024 + 1), a100) == Residency(0, "shared memory")
    assert residency(use_of(1024, registers=256), a100) == Residency(0, "registers")


def test_shared_memory_without_a_reserve_limits_nothing_that_uses_none() -> None:
    gpu = with_overrides(load("a100"), {"shared_memory.reserved_per_block": "0 B"}).gpu
    assert residency(use_of(32), gpu) == Residency(32, "block slots")


def test_registers_over_255_spill() -> None:
    kernel, _ = kernel_of(Known("a100", 128, False, (128, 64), 65536, 2, (255, 255)))
    use = block_use(record(kernel))
    # 128 × (64 + 128) accumulators over 128 threads and 88 more: 280.
    assert (use.registers_per_thread, use.spilled_registers) == (256, 25)
    assert use.spilled_in_loop == 0


def test_compiled_registers_go_before_the_estimate() -> None:
    kernel, _ = kernel_of(Known("a100", 128, False, (128, 64), 65536, 2, (255, 255)))
    compiled = replace(kernel, mapping=replace(kernel.mapping, registers_per_thread=166))
    use = block_use(record(compiled))
    assert (use.registers_per_thread, use.spilled_registers) == (168, 0)


def test_a_product_is_no_buffer_of_the_tensor_it_shares_a_name_with() -> None:
    gemm = Gemm(128, 64, k_step=32, stages=3, mapping=Mapping(4))
    problem = Attention(1, 1, 256, 256, 64)
    kernel = probability_value_kernel(problem, gemm, v="O", o="result")
    assert block_use(record(kernel)).shared_memory_bytes == 3 * (128 + 64) * 32 * 2


def test_a_buffer_is_a_full_tile_of_its_tensor(a100: Gpu) -> None:
    problem = Attention(1, 1, 1000, 1000, 64)
    (kernel,) = catalog.plan(problem, a100, "flash1", options=Options((32, 160))).kernels
    assert block_use(record(kernel)).shared_memory_bytes == 2 * (2 * 32 + 2 * 160) * 64
    (first, _, last) = catalog.plan(problem, a100, "standard", options=Options((128, 64))).kernels
    stage = (128 + 64) * 32 * 2
    assert block_use(record(first)).shared_memory_bytes == 5 * stage
    assert block_use(record(last)).shared_memory_bytes == 5 * stage


def test_products_that_pass_give_their_registers_to_the_next() -> None:
    """Backward, 64 × 128, d = 128: dK and dV live throughout, S and dP together, dQ after them."""
    gpu = load("a100").gpu
    problem = Attention(1, 1, 1024, 1024, 128, direction="backward")
    main = catalog.plan(problem, gpu, "flash2", options=Options((64, 128))).kernels[1]
    use = block_use(record(main))
    accumulators = (2 * 128 * 128 + 2 * 64 * 128) // 256
    assert use.spilled_registers == 88 + accumulators - 255
    assert use.spilled_in_loop == 0


def test_computed_operands_take_shared_memory_unless_registers_hold_them() -> None:
    gpu = load("a100").gpu
    problem = Attention(1, 1, 1024, 1024, 128, direction="backward")
    main = catalog.plan(problem, gpu, "flash2", options=Options((64, 128))).kernels[1]
    staged = block_use(record(main)).shared_memory_bytes
    held = replace(main.mapping, operands_in_registers=("dV", "dK", "dQ"))
    without = block_use(record(replace(main, mapping=held))).shared_memory_bytes
    assert staged - without == 2 * 64 * 128 * 2  # P and dS
    assert staged == (2 * 128 + 3 * 64) * 128 * 2 + 2 * 64 * 128 * 2
