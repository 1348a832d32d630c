"""The GPU as primary facts, and what follows from them.

Fields are named in Python with their unit (`gpu.dram.bandwidth_bytes_per_s`) and in YAML and on
the command line without it (`dram.bandwidth: 3.35 TB/s`). Everything computed is a property or
a method and cannot be set; `derived.py` lists it. Sources of the numbers are in the profiles.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from fasim.hardware.parts import (
    ClockDomain,
    Dram,
    Facts,
    HostLink,
    L2Cache,
    LaunchCost,
    Multiprocessor,
    Pipe,
    PowerBudget,
    SharedMemory,
    TensorCore,
    refuse,
)
from fasim.hardware.quantity import Choice, Choices, Text, count
from fasim.hardware.units import CAPACITY

WARP = 32  # threads of a warp
MMA_FLOPS = 4096  # of one mma.sync.m16n8k16, the shape FlashAttention-2 issues
LDMATRIX_BYTES = 512  # of one ldmatrix.x4: four 8 × 8 tiles of two bytes

Architecture = Literal["sm_80", "sm_86", "sm_89", "sm_90", "sm_100"]
Feature = Literal["cp_async", "tma", "wgmma", "clusters", "fp8", "tcgen05"]
WarpInstruction = Literal["fp32", "alu", "sfu", "mma_sync", "ldmatrix"]


class Gpu(Facts):
    """A GPU, real or imagined, as frozen and hashable primary facts.

    Build one with `fasim.hardware.load`, or in Python with the names of either form. Rates
    per cycle are for one SM.

    Raises:
        pydantic.ValidationError: a field is unknown, missing or impossible, or two do not fit.
    """

    name: Annotated[str, Text(80)] = Field(description="what the GPU is called here")
    title: Annotated[str, Text()] = Field(description="its name in full")
    architecture: Annotated[Architecture, Choice(get_args(Architecture))] = Field(
        description="instruction set; decides which kernels run"
    )
    features: Annotated[tuple[Feature, ...], Choices(get_args(Feature))] = Field(
        description="units for asynchronous copies and matmuls, and FP8"
    )
    sm_count: Annotated[int, count(1, 100_000)] = Field(description="streaming multiprocessors")
    clock: ClockDomain
    sm: Multiprocessor
    shared_memory: SharedMemory
    tensor_core: TensorCore
    fp32: Pipe
    alu: Pipe
    sfu: Pipe
    l2: L2Cache
    dram: Dram
    launch: LaunchCost
    power: PowerBudget
    host: HostLink = HostLink()

    @model_validator(mode="after")
    def _consistent(self) -> Gpu:
        faults = [
            ("features", f"{feature} needs {needed} beside it; add it")
            for feature, needed in (("tma", "cp_async"), ("wgmma", "tma"), ("tcgen05", "tma"))
            if feature in self.features and needed not in self.features
        ]
        rate = self.tensor_core.flops_per_clock.fp8
        if ("fp8" in self.features) != (rate is not None):
            instead = "give a rate" if rate is None else "write null"
            message = f"does not agree with fp8 in features; {instead} or change features"
            faults.append(("tensor_core.flops_per_clock.fp8", message))
        whole_rate = self.tensor_core.mma_sync_fraction == 1
        if not whole_rate and not {"wgmma", "tcgen05"} & set(self.features):
            message = "below 1, yet no wgmma or tcgen05 in features reaches the full rate; write 1"
            faults.append(("tensor_core.mma_sync_fraction", message))
        if self.dram.capacity_bytes <= self.l2.capacity_bytes:
            message = f"no larger than l2.capacity ({CAPACITY.format(self.l2.capacity_bytes)})"
            faults.append(("dram.capacity", f"{message}; give more"))
        refuse(faults)
        return self

    # What follows from the facts. Rates are peaks unless the name says otherwise.

    def tensor_flops_per_s(self, dtype: str) -> float | None:
        """Dense tensor FLOP/s at `clock.tensor` for inputs of `dtype`; None if not supported.

        Raises:
            KeyError: `dtype` is none of fp16, bf16, tf32, fp8, int8.
        """
        rate = self.tensor_core.flops_per_clock[dtype]
        return None if rate is None else rate * self.sm_count * self.clock.tensor_hz

    @property
    def fp32_flops_per_s(self) -> float:
        """FLOP/s of the CUDA cores at `clock.boost`, a fused multiply-add as two."""
        return 2.0 * self.fp32.lanes * self.sm_count * self.clock.boost_hz

    @property
    def sfu_ops_per_s(self) -> float:
        """exp2 and the like per second at `clock.boost`."""
        return self.sfu.lanes * self.sm_count * self.clock.boost_hz

    @property
    def shared_memory_total_bytes(self) -> int:
        """Shared memory of all SMs."""
        return self.shared_memory.capacity_bytes * self.sm_count

    @property
    def shared_memory_bytes_per_s(self) -> float:
        """Bandwidth of all SMs' shared memories at `clock.boost`."""
        return self.shared_memory.bytes_per_clock * self.sm_count * self.clock.boost_hz

    @property
    def l2_read_bytes_per_s(self) -> float:
        """What all SMs together read from L2 at `clock.boost`; an achieved rate."""
        return self.l2.read_bytes_per_clock_per_sm * self.sm_count * self.clock.boost_hz

    @property
    def l2_write_bytes_per_s(self) -> float:
        """What all SMs together write to L2 at `clock.boost`; an achieved rate."""
        return self.l2.write_bytes_per_clock_per_sm * self.sm_count * self.clock.boost_hz

    @property
    def dram_read_bytes_per_s(self) -> float:
        """DRAM bandwidth that pure streams achieve."""
        return self.dram.bandwidth_bytes_per_s * self.dram.read_efficiency

    @property
    def dram_mixed_bytes_per_s(self) -> float:
        """DRAM bandwidth that one read to one write achieves, both counted."""
        return self.dram.bandwidth_bytes_per_s * self.dram.mixed_efficiency

    @property
    def ridge_flops_per_byte(self) -> float | None:
        """FLOP per DRAM byte where FP16 tensor work meets the pin bandwidth."""
        flops = self.tensor_flops_per_s("fp16")
        return None if flops is None else flops / self.dram.bandwidth_bytes_per_s

    @property
    def max_threads_per_sm(self) -> int:
        """Resident threads of an SM."""
        return self.sm.max_warps * WARP

    def warp_instruction_cycles(
        self, instruction: WarpInstruction, dtype: str = "fp16"
    ) -> float | None:
        """Cycles that one warp instruction occupies its scheduler's share of a pipe.

        `mma_sync` is m16n8k16 with FP32 accumulation (k32 for one-byte types: the same bytes),
        `ldmatrix` is ldmatrix.x4; None where the tensor cores do not take `dtype`.
        """
        schedulers = self.sm.schedulers
        if instruction == "mma_sync":
            rate = self.tensor_core.flops_per_clock[dtype]
            if rate is None:
                return None
            flops = {"tf32": MMA_FLOPS // 2, "fp8": MMA_FLOPS * 2, "int8": MMA_FLOPS * 2}
            reached = rate * self.tensor_core.mma_sync_fraction
            return flops.get(dtype, MMA_FLOPS) * schedulers / reached
        if instruction == "ldmatrix":
            return LDMATRIX_BYTES * schedulers / self.shared_memory.bytes_per_clock
        pipe = {"fp32": self.fp32, "alu": self.alu, "sfu": self.sfu}[instruction]
        return WARP * schedulers / pipe.lanes
