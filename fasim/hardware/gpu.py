"""The GPU as primary facts, and what follows from them.

Fields are named in Python with their unit (`gpu.dram.bandwidth_bytes_per_s`) and in YAML and on
the command line without it (`dram.bandwidth: 3.35 TB/s`). Everything computed is a property or
a method and cannot be set; `derived.py` lists it. Sources of the numbers are in the profiles.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from fasim.hardware.quantity import Choice, Choices, Quantity, Text, count
from fasim.hardware.units import BANDWIDTH, CAPACITY, FREQUENCY, NUMBER, POWER, TIME

WARP = 32  # threads of a warp
MMA_FLOPS = 4096  # of one mma.sync.m16n8k16, the shape FlashAttention-2 issues
LDMATRIX_BYTES = 512  # of one ldmatrix.x4: four 8 × 8 tiles of two bytes

Architecture = Literal["sm_80", "sm_86", "sm_89", "sm_90", "sm_100"]
Feature = Literal["cp_async", "tma", "wgmma", "clusters", "fp8", "tcgen05"]
TensorDtype = Literal["fp16", "bf16", "tf32", "fp8", "int8"]
WarpInstruction = Literal["fp32", "alu", "sfu", "mma_sync", "ldmatrix"]

Capacity = Annotated[int, Quantity(CAPACITY, 1, 2**50, whole=True)]
SmallCapacity = Annotated[int, Quantity(CAPACITY, 0, 2**30, whole=True)]
Bandwidth = Annotated[float, Quantity(BANDWIDTH, 1e9, 1e15)]
OptionalBandwidth = Annotated[float | None, Quantity(BANDWIDTH, 1e8, 1e15, optional=True)]
Clock = Annotated[float, Quantity(FREQUENCY, 1e7, 1e11)]
OptionalClock = Annotated[float | None, Quantity(FREQUENCY, 1e7, 1e11, optional=True)]
Latency = Annotated[float, Quantity(TIME, 1e-9, 1e-3)]
LaunchTime = Annotated[float, Quantity(TIME, 0, 1e-2)]
Power = Annotated[float, Quantity(POWER, 1, 1e6)]
Share = Annotated[float, Quantity(NUMBER, 1e-3, 1)]
BytesPerClock = Annotated[float, Quantity(NUMBER, 0.1, 1e6)]
Count = Annotated[int, count()]
Cycles = Annotated[int, count(0, 100_000)]
TensorRate = Annotated[int | None, count(optional=True)]


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def _refuse(faults: list[tuple[str, str]]) -> None:
    """Raise one error for fields that do not fit together; the loader places each by itself."""
    if faults:
        summary = "; ".join(f"{field}: {message}" for field, message in faults)
        context = {"summary": summary, "faults": faults}
        raise PydanticCustomError("inconsistent", "{summary}", context)


class ClockDomain(_Facts):
    """Clocks of the SMs."""

    boost_hz: Clock = Field(
        alias="boost", description="highest clock the part reaches; memory and CUDA-core kernels"
    )
    tensor_hz: Clock = Field(
        alias="tensor", description="highest clock under tensor work that power does not limit"
    )
    sustained_tensor_hz: OptionalClock = Field(
        None,
        alias="sustained_tensor",
        description="clock of a long full GEMM at the power limit; none: power does not limit it",
    )

    @model_validator(mode="after")
    def _ordered(self) -> ClockDomain:
        faults = []
        if self.tensor_hz > self.boost_hz:
            faults.append(("tensor", "faster than clock.boost; lower it or raise clock.boost"))
        if self.sustained_tensor_hz and self.sustained_tensor_hz > self.tensor_hz:
            faults.append(
                ("sustained_tensor", "faster than clock.tensor; lower it or leave it out")
            )
        _refuse(faults)
        return self


class Multiprocessor(_Facts):
    """One SM's schedulers and what resident warps and blocks may take of it."""

    schedulers: Annotated[int, count(1, 64)] = Field(description="warp schedulers of an SM")
    max_warps: Annotated[int, count(1, 4096)] = Field(description="resident warps of an SM")
    max_blocks: Annotated[int, count(1, 4096)] = Field(description="resident blocks of an SM")
    registers: Annotated[int, count(1024, 2**30)] = Field(description="32-bit registers of an SM")
    max_registers_per_thread: Annotated[int, count(16, 1024)] = Field(
        description="registers the instruction encoding can name"
    )
    barrier_cycles: Cycles = Field(description="cycles a block barrier takes to join its warps")

    @model_validator(mode="after")
    def _fits(self) -> Multiprocessor:
        if self.max_warps < self.schedulers:
            _refuse([("max_warps", f"fewer than the {self.schedulers} schedulers; raise it")])
        return self


class SharedMemory(_Facts):
    """Shared memory of one SM."""

    capacity_bytes: Capacity = Field(alias="capacity", description="what the blocks of an SM share")
    max_block_bytes: Capacity = Field(alias="max_per_block", description="most a block may ask for")
    reserved_block_bytes: SmallCapacity = Field(
        alias="reserved_per_block", description="taken by the system for each resident block"
    )
    bytes_per_clock: BytesPerClock = Field(description="read or written per cycle and SM")
    latency_cycles: Cycles = Field(description="from load to use")

    @model_validator(mode="after")
    def _fits(self) -> SharedMemory:
        room = self.capacity_bytes - self.reserved_block_bytes
        if self.max_block_bytes > room:
            most = f"{CAPACITY.format(room)} (capacity − reserved_per_block)"
            what = f"{CAPACITY.format(self.max_block_bytes)} does not fit an SM"
            _refuse([("max_per_block", f"{what}; at most {most} would")])
        return self


class TensorRates(_Facts):
    """Dense tensor-core FLOP per cycle and SM by input type, with FP32 (INT32) accumulation."""

    fp16: TensorRate = Field(description="dense FLOP per cycle and SM, FP16 in, FP32 accumulate")
    bf16: TensorRate = Field(description="the same, BF16 in")
    tf32: TensorRate = Field(description="the same, TF32 in")
    fp8: TensorRate = Field(description="the same, FP8 in; null: not supported")
    int8: TensorRate = Field(description="operations per cycle and SM, INT8 in, INT32 accumulate")

    def __getitem__(self, dtype: str) -> int | None:
        if dtype not in get_args(TensorDtype):
            raise KeyError(dtype)
        rate: int | None = getattr(self, dtype)
        return rate


class TensorCore(_Facts):
    """The tensor cores of one SM together."""

    flops_per_clock: TensorRates
    mma_sync_fraction: Share = Field(
        description="share of the full rate that mma.sync reaches (the rest needs wgmma, tcgen05)"
    )
    latency_cycles: Cycles = Field(description="mma.sync, from issue to use of the result")


class Pipe(_Facts):
    """A pipe of ordinary instructions: lanes of one SM, all schedulers together."""

    lanes: Annotated[int, count(1, 4096)] = Field(
        description="results per cycle and SM, all schedulers together"
    )
    latency_cycles: Cycles = Field(description="from issue to use of the result")


class L2Cache(_Facts):
    """The L2 cache and each SM's port to it."""

    capacity_bytes: Capacity = Field(alias="capacity", description="all partitions together")
    partitions: Annotated[int, count(1, 64)] = Field(
        description="halves with their own crossbar; a line of the far one costs more"
    )
    read_bytes_per_clock_per_sm: BytesPerClock = Field(
        description="rate that reads reach, all SMs reading"
    )
    write_bytes_per_clock_per_sm: BytesPerClock = Field(
        description="rate that writes reach, all SMs writing"
    )
    latency_cycles: Cycles = Field(description="hit in the near partition")
    far_latency_cycles: Cycles = Field(description="hit in the far partition")
    sector_bytes: Annotated[int, count(1, 4096)] = Field(description="granule of a transfer")
    line_bytes: Annotated[int, count(1, 65536)] = Field(description="granule of a tag")

    @model_validator(mode="after")
    def _fits(self) -> L2Cache:
        faults = []
        if self.far_latency_cycles < self.latency_cycles:
            near = self.latency_cycles
            faults.append(
                ("far_latency_cycles", f"below l2.latency_cycles; {near} or more would work")
            )
        if self.line_bytes % self.sector_bytes:
            whole = f"a multiple of sector_bytes ({self.sector_bytes}) would work"
            faults.append(("line_bytes", f"{self.line_bytes} is not whole sectors; {whole}"))
        _refuse(faults)
        return self


class Dram(_Facts):
    """Device memory: HBM, GDDR or what comes."""

    kind: Annotated[str, Text()] = Field(description="HBM3, GDDR6X …; a name only")
    capacity_bytes: Capacity = Field(alias="capacity", description="device memory in all")
    bandwidth_bytes_per_s: Bandwidth = Field(alias="bandwidth", description="of the pins")
    read_efficiency: Share = Field(description="share of the pins that pure streams reach")
    mixed_efficiency: Share = Field(description="share that one read to one write reaches")
    latency_s: Latency = Field(alias="latency", description="of a load that misses L2, idle memory")

    @model_validator(mode="after")
    def _ordered(self) -> Dram:
        if self.mixed_efficiency > self.read_efficiency:
            most = f"{self.read_efficiency:g} or less would work"
            _refuse([("mixed_efficiency", f"above dram.read_efficiency; {most}")])
        return self


class LaunchCost(_Facts):
    """Time between the starts of two very short kernels that follow each other."""

    stream_s: LaunchTime = Field(alias="stream", description="period of short kernels on a stream")
    graph_s: LaunchTime = Field(alias="graph", description="period of short kernels in a graph")

    @model_validator(mode="after")
    def _ordered(self) -> LaunchCost:
        if self.graph_s > self.stream_s:
            most = f"{TIME.format(self.stream_s)} or less would work"
            _refuse([("graph", f"above launch.stream; {most}")])
        return self


class PowerBudget(_Facts):
    """Electrical power of the board."""

    limit_w: Power = Field(alias="limit", description="default power limit of the board")


class HostLink(_Facts):
    """Ways out of the GPU, one direction each."""

    pcie_bytes_per_s: OptionalBandwidth = Field(
        None, alias="pcie", description="rate that a large copy reaches over PCIe, one direction"
    )
    nvlink_bytes_per_s: OptionalBandwidth = Field(
        None, alias="nvlink", description="all NVLinks together, one direction; none: no NVLink"
    )


class Gpu(_Facts):
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
        _refuse(faults)
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
