"""The one list of what follows from a GPU's facts, for `show`, override reports and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from fasim.hardware.gpu import Gpu
from fasim.hardware.parts import TensorDtype
from fasim.hardware.units import (
    BANDWIDTH,
    CAPACITY,
    COUNT,
    CYCLES,
    FLOP_RATE,
    INTENSITY,
    OPERATION_RATE,
    Dimension,
)


@dataclass(frozen=True)
class Derived:
    """One computed quantity.

    Attributes:
        name: as printed; never a key that can be set.
        inputs: the primary facts it is computed from.
    """

    name: str
    dimension: Dimension
    inputs: tuple[str, ...]
    compute: Callable[[Gpu], float | None]
    description: str

    def format(self, value: float | None) -> str:
        return "none" if value is None else self.dimension.format(value, digits=4)


def _tensor_rate(dtype: str) -> Derived:
    return Derived(
        f"tensor_flops.{dtype}",
        OPERATION_RATE if dtype == "int8" else FLOP_RATE,
        ("sm_count", f"tensor_core.flops_per_clock.{dtype}", "clock.tensor"),
        lambda gpu: gpu.tensor_flops_per_s(dtype),
        f"peak dense tensor rate, {dtype.upper()} in",
    )


_LANES = ("sm.schedulers",)

DERIVED: tuple[Derived, ...] = (
    *(_tensor_rate(dtype) for dtype in get_args(TensorDtype)),
    Derived(
        "fp32_flops",
        FLOP_RATE,
        ("sm_count", "fp32.lanes", "clock.boost"),
        lambda gpu: gpu.fp32_flops_per_s,
        "peak FP32 rate of the CUDA cores",
    ),
    Derived(
        "sfu_ops",
        OPERATION_RATE,
        ("sm_count", "sfu.lanes", "clock.boost"),
        lambda gpu: gpu.sfu_ops_per_s,
        "peak rate of exp2",
    ),
    Derived(
        "shared_memory_bandwidth",
        BANDWIDTH,
        ("sm_count", "shared_memory.bytes_per_clock", "clock.boost"),
        lambda gpu: gpu.shared_memory_bytes_per_s,
        "all SMs together",
    ),
    Derived(
        "l2_read_bandwidth",
        BANDWIDTH,
        ("sm_count", "l2.read_bytes_per_clock_per_sm", "clock.boost"),
        lambda gpu: gpu.l2_read_bytes_per_s,
        "achieved, all SMs together",
    ),
    Derived(
        "l2_write_bandwidth",
        BANDWIDTH,
        ("sm_count", "l2.write_bytes_per_clock_per_sm", "clock.boost"),
        lambda gpu: gpu.l2_write_bytes_per_s,
        "achieved, all SMs together",
    ),
    Derived(
        "dram_read_bandwidth",
        BANDWIDTH,
        ("dram.bandwidth", "dram.read_efficiency"),
        lambda gpu: gpu.dram_read_bytes_per_s,
        "achieved by pure streams",
    ),
    Derived(
        "dram_mixed_bandwidth",
        BANDWIDTH,
        ("dram.bandwidth", "dram.mixed_efficiency"),
        lambda gpu: gpu.dram_mixed_bytes_per_s,
        "achieved by one read to one write",
    ),
    Derived(
        "ridge_point",
        INTENSITY,
        ("sm_count", "tensor_core.flops_per_clock.fp16", "clock.tensor", "dram.bandwidth"),
        lambda gpu: gpu.ridge_flops_per_byte,
        "FP16 tensor peak over pin bandwidth",
    ),
    Derived(
        "shared_memory_total",
        CAPACITY,
        ("sm_count", "shared_memory.capacity"),
        lambda gpu: gpu.shared_memory_total_bytes,
        "all SMs together",
    ),
    Derived(
        "max_threads_per_sm",
        COUNT,
        ("sm.max_warps",),
        lambda gpu: gpu.max_threads_per_sm,
        "resident threads of an SM",
    ),
    Derived(
        "fp32_cycles",
        CYCLES,
        ("fp32.lanes", *_LANES),
        lambda gpu: gpu.warp_instruction_cycles("fp32"),
        "one warp FFMA on its scheduler",
    ),
    Derived(
        "alu_cycles",
        CYCLES,
        ("alu.lanes", *_LANES),
        lambda gpu: gpu.warp_instruction_cycles("alu"),
        "one warp integer, FMNMX or F2FP on its scheduler",
    ),
    Derived(
        "sfu_cycles",
        CYCLES,
        ("sfu.lanes", *_LANES),
        lambda gpu: gpu.warp_instruction_cycles("sfu"),
        "one warp MUFU on its scheduler",
    ),
    Derived(
        "mma_sync_cycles",
        CYCLES,
        ("tensor_core.flops_per_clock.fp16", "tensor_core.mma_sync_fraction", *_LANES),
        lambda gpu: gpu.warp_instruction_cycles("mma_sync"),
        "one mma.sync.m16n8k16 (FP16 in, FP32 accumulate) on its scheduler",
    ),
    Derived(
        "ldmatrix_cycles",
        CYCLES,
        ("shared_memory.bytes_per_clock", *_LANES),
        lambda gpu: gpu.warp_instruction_cycles("ldmatrix"),
        "one ldmatrix.x4, shared memory divided among the schedulers",
    ),
)
