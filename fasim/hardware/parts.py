"""The parts of a GPU as frozen models, each with what must hold inside it.

Fields are named in Python with their unit and in YAML without it. Bounds are wide: they keep
out what no machine could be. Sources of the numbers are in the profiles.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from fasim.hardware.quantity import Quantity, Text, count
from fasim.hardware.units import BANDWIDTH, CAPACITY, FREQUENCY, NUMBER, POWER, SHARE, TIME

TensorDtype = Literal["fp16", "bf16", "tf32", "fp8", "int8"]

Capacity = Annotated[int, Quantity(CAPACITY, 1, 2**50, whole=True)]
OptionalCapacity = Annotated[int | None, Quantity(CAPACITY, 1, 2**50, whole=True, optional=True)]
SmallCapacity = Annotated[int, Quantity(CAPACITY, 0, 2**30, whole=True)]
Bandwidth = Annotated[float, Quantity(BANDWIDTH, 1e9, 1e15)]
OptionalBandwidth = Annotated[float | None, Quantity(BANDWIDTH, 1e8, 1e15, optional=True)]
Clock = Annotated[float, Quantity(FREQUENCY, 1e7, 1e11)]
OptionalClock = Annotated[float | None, Quantity(FREQUENCY, 1e7, 1e11, optional=True)]
Latency = Annotated[float, Quantity(TIME, 1e-9, 1e-3)]
LaunchTime = Annotated[float, Quantity(TIME, 0, 1e-2)]
Power = Annotated[float, Quantity(POWER, 1, 1e6)]
OptionalTimeConstant = Annotated[float | None, Quantity(TIME, 1e-6, 1, optional=True)]
Share = Annotated[float, Quantity(SHARE, 1e-3, 1)]
BytesPerClock = Annotated[float, Quantity(NUMBER, 0.1, 1e6)]
Count = Annotated[int, count()]
Cycles = Annotated[int, count(0, 100_000)]
TensorRate = Annotated[int | None, count(optional=True)]


class Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def refuse(faults: list[tuple[str, str]]) -> None:
    """Raise one error for fields that do not fit together; the loader places each by itself."""
    if faults:
        summary = "; ".join(f"{field}: {message}" for field, message in faults)
        context = {"summary": summary, "faults": faults}
        raise PydanticCustomError("inconsistent", "{summary}", context)


class ClockDomain(Facts):
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
        refuse(faults)
        return self


class Multiprocessor(Facts):
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
            refuse([("max_warps", f"fewer than the {self.schedulers} schedulers; raise it")])
        return self


class SharedMemory(Facts):
    """Shared memory of one SM."""

    capacity_bytes: Capacity = Field(alias="capacity", description="what the blocks of an SM share")
    max_block_bytes: Capacity = Field(alias="max_per_block", description="most a block may ask for")
    reserved_block_bytes: SmallCapacity = Field(
        alias="reserved_per_block", description="taken by the system for each resident block"
    )
    unified_bytes: OptionalCapacity = Field(
        None, alias="unified", description="an SM's data cache: shared memory, and L1 in the rest"
    )
    bytes_per_clock: BytesPerClock = Field(description="read or written per cycle and SM")
    latency_cycles: Cycles = Field(description="from load to use")

    @model_validator(mode="after")
    def _fits(self) -> SharedMemory:
        room = self.capacity_bytes - self.reserved_block_bytes
        if self.max_block_bytes > room:
            most = f"{CAPACITY.format(room)} (capacity − reserved_per_block)"
            what = f"{CAPACITY.format(self.max_block_bytes)} does not fit an SM"
            refuse([("max_per_block", f"{what}; at most {most} would")])
        return self


class TensorRates(Facts):
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


class TensorCore(Facts):
    """The tensor cores of one SM together."""

    flops_per_clock: TensorRates
    mma_sync_fraction: Share = Field(
        description="share of the full rate that mma.sync reaches (the rest needs wgmma, tcgen05)"
    )
    latency_cycles: Cycles = Field(description="mma.sync, from issue to use of the result")


class Pipe(Facts):
    """A pipe of ordinary instructions: lanes of one SM, all schedulers together."""

    lanes: Annotated[int, count(1, 4096)] = Field(
        description="results per cycle and SM, all schedulers together"
    )
    latency_cycles: Cycles = Field(description="from issue to use of the result")


class L2Cache(Facts):
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
        refuse(faults)
        return self


class Dram(Facts):
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
            refuse([("mixed_efficiency", f"above dram.read_efficiency; {most}")])
        return self


class LaunchCost(Facts):
    """Time between the starts of two very short kernels that follow each other."""

    stream_s: LaunchTime = Field(alias="stream", description="period of short kernels on a stream")
    graph_s: LaunchTime = Field(alias="graph", description="period of short kernels in a graph")

    @model_validator(mode="after")
    def _ordered(self) -> LaunchCost:
        if self.graph_s > self.stream_s:
            most = f"{TIME.format(self.stream_s)} or less would work"
            refuse([("graph", f"above launch.stream; {most}")])
        return self


class PowerBudget(Facts):
    """Electrical power of the board."""

    limit_w: Power = Field(alias="limit", description="default power limit of the board")
    time_constant_s: OptionalTimeConstant = Field(
        None,
        alias="time_constant",
        description="in which the clock falls to what power allows, exponentially; none: at once",
    )


class HostLink(Facts):
    """Ways out of the GPU, one direction each."""

    pcie_bytes_per_s: OptionalBandwidth = Field(
        None, alias="pcie", description="rate that a large copy reaches over PCIe, one direction"
    )
    nvlink_bytes_per_s: OptionalBandwidth = Field(
        None, alias="nvlink", description="all NVLinks together, one direction; none: no NVLink"
    )
