"""`fasim profiles detect`: a profile of the GPU in this machine, each number with its origin.

`queried`: nvidia-smi or torch says so. `measured`: a row of a file of measurements says so.
`assumed`: neither does, and the number is that of a shipped GPU of the same architecture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from fasim.hardware import Profile, load, shipped
from fasim.hardware.fields import schema
from fasim.hardware.gpu import Architecture
from fasim.verbs.machine.gpu_query import GpuQuery, NoGpu, query_gpu
from fasim.verbs.measured.device_measurements import (
    DRAM_COPY,
    DRAM_READ,
    L2_READ,
    L2_WRITE,
    LAUNCH_GRAPH,
    LAUNCH_STREAM,
    SM_CLOCK,
    DeviceRow,
    best_gemm,
    from_dram,
    from_l2,
    of,
    read_device_rows,
    typical,
)

Mark = Literal["queried", "measured", "assumed"]
SMI, TORCH = "nvidia-smi", "torch.cuda.get_device_properties"
# Pins within this of the assumed GPU's carry the same memory: data sheets round.
SAME_MEMORY = 0.03


@dataclass(frozen=True)
class DetectedFact:
    """One number of the profile, in base units, and where it comes from."""

    value: Any
    mark: Mark
    source: str


@dataclass(frozen=True)
class DetectedProfile:
    """A GPU as it was found.

    Attributes:
        extends: the shipped GPU that stands for what nobody said.
        facts: every number by path (`dram.bandwidth`), in the order of the schema.
    """

    name: str
    title: str
    architecture: str
    extends: str
    facts: dict[str, DetectedFact]

    def count(self, mark: Mark) -> int:
        """How many numbers have this origin."""
        return sum(fact.mark == mark for fact in self.facts.values())


def detect_profile(measured: Path | None = None, query: GpuQuery | None = None) -> DetectedProfile:
    """The profile of the first GPU of this machine.

    Args:
        measured: a CSV with rows of device facts.
        query: what the tools say; they are asked if it is not given.

    Raises:
        NoGpu: there is none, or one of an architecture that fasim has no GPU of.
        TableError, MeasurementError: the file cannot be read, or is of other GPUs.
    """
    query = query or query_gpu()
    parent = _closest(query)
    name = _name(query.name)
    facts = _assumed(parent)
    facts.update(_queried(query, facts))
    if measured is not None:
        called = (name, query.name, parent.gpu.name, name.removesuffix("-detected"))
        rows = read_device_rows(measured, called)
        facts.update(_measured(rows, facts, measured.name))
    _reconcile(facts)
    return DetectedProfile(name, query.name, query.architecture, parent.gpu.name, facts)


def _closest(query: GpuQuery) -> Profile:
    """The shipped GPU of the same architecture whose name and memory are most like it."""
    known = get_args(Architecture)
    if query.architecture not in known:
        raise NoGpu(
            f"{query.name} is {query.architecture}; fasim knows {', '.join(known)}: "
            "write a profile by hand, see `fasim profiles schema`"
        )
    profiles = [profile for profile in map(load, shipped()) if not profile.extends]
    same = [p for p in profiles if p.gpu.architecture == query.architecture]
    if not same:
        raise NoGpu(f"{query.name} is {query.architecture}; no shipped profile is")
    asked, capacity = _words(query.name), _capacity_bytes(query)

    def likeness(profile: Profile) -> tuple[int, float]:
        gpu = profile.gpu
        shared = asked & _words(f"{gpu.name} {gpu.title} {gpu.dram.kind}")
        away = abs((capacity or gpu.dram.capacity_bytes) / gpu.dram.capacity_bytes - 1)
        return len(shared), -away

    return max(same, key=likeness)


def _words(text: str) -> set[str]:
    """Words and numbers, `80GB` as two: makers and data sheets differ in spaces."""
    return set(re.findall(r"[a-z]+[0-9]+[a-z]?\b|[0-9]+|[a-z]+", text.lower()))


def _name(device: str) -> str:
    slug = "-".join(re.findall(r"[a-z0-9]+", device.lower().removeprefix("nvidia ")))
    return f"{slug or 'gpu'}-detected"


def _assumed(parent: Profile) -> dict[str, DetectedFact]:
    """Every number of the parent, on its authority."""
    facts = {}
    for path, field in schema().fields.items():
        origin = parent.provenance.get(path)
        if field.is_number and origin is not None:
            source = f"assumed from {parent.gpu.name}: {origin.source}"
            facts[path] = DetectedFact(field.value(parent.gpu), "assumed", source)
    return facts


def _capacity_bytes(query: GpuQuery) -> int | None:
    if "total_memory" in query.torch:
        return int(query.torch["total_memory"])
    return int(query.smi["memory.total"]) * 2**20 if "memory.total" in query.smi else None


def _queried(query: GpuQuery, assumed: dict[str, DetectedFact]) -> dict[str, DetectedFact]:
    """What the tools say, in base units."""
    torch, smi = query.torch, query.smi
    driver = f", driver {smi['driver_version']}" if "driver_version" in smi else ""
    found: dict[str, tuple[Any, str]] = {}
    for path, attribute in (
        ("sm_count", "multi_processor_count"),
        ("sm.registers", "regs_per_multiprocessor"),
        ("shared_memory.capacity", "shared_memory_per_multiprocessor"),
        ("shared_memory.max_per_block", "shared_memory_per_block_optin"),
        ("l2.capacity", "L2_cache_size"),
        ("dram.capacity", "total_memory"),
    ):
        if torch.get(attribute):
            found[path] = (int(torch[attribute]), f"{TORCH} {attribute}")
    if torch.get("max_threads_per_multi_processor") and torch.get("warp_size"):
        warps = int(torch["max_threads_per_multi_processor"]) // int(torch["warp_size"])
        found["sm.max_warps"] = (warps, f"{TORCH} max_threads_per_multi_processor / warp_size")
    if torch.get("memory_clock_rate") and torch.get("memory_bus_width"):
        kilohertz, bits = int(torch["memory_clock_rate"]), int(torch["memory_bus_width"])
        how = f"{TORCH}: two transfers a clock of {kilohertz / 1e3:g} MHz over {bits} bit"
        found["dram.bandwidth"] = (2 * kilohertz * 1e3 * bits / 8, how)
    if "memory.total" in smi:
        found.setdefault("dram.capacity", (_capacity_bytes(query), f"{SMI} memory.total{driver}"))
    if "clocks.max.sm" in smi:
        hertz = float(smi["clocks.max.sm"]) * 1e6
        found["clock.boost"] = (hertz, f"{SMI} clocks.max.sm{driver}: the highest it may reach")
    if "power.default_limit" in smi:
        watts = float(smi["power.default_limit"])
        found["power.limit"] = (watts, f"{SMI} power.default_limit{driver}")
    facts = {
        path: DetectedFact(value, "queried", f"queried: {source}")
        for path, (value, source) in found.items()
    }
    return {**facts, **_same_memory(facts, assumed)}


def _same_memory(
    queried: dict[str, DetectedFact], assumed: dict[str, DetectedFact]
) -> dict[str, DetectedFact]:
    """Efficiencies are shares of the pins. Where the device reports the pins of the same memory
    a little differently, its streams still reach the same rate."""
    if "dram.bandwidth" not in queried:
        return {}
    ratio = assumed["dram.bandwidth"].value / queried["dram.bandwidth"].value
    if ratio == 1 or abs(ratio - 1) > SAME_MEMORY:
        return {}
    return {
        path: replace(
            assumed[path],
            value=min(1.0, assumed[path].value * ratio),
            source=f"{assumed[path].source}; × {ratio:.4f}, of the bandwidth queried",
        )
        for path in ("dram.read_efficiency", "dram.mixed_efficiency")
    }


def _measured(
    rows: Sequence[DeviceRow], facts: dict[str, DetectedFact], file: str
) -> dict[str, DetectedFact]:
    """What rows of device facts say, as the fields of a profile."""
    clock_row = typical(of(rows, SM_CLOCK, "mhz"))
    boost_hz = clock_row.value if clock_row else facts["clock.boost"].value
    found = {
        path: DetectedFact(value, "measured", f"measured: {file} {row.id}, {row.operator}")
        for path, value, row in (
            *_bandwidths(rows, facts, boost_hz),
            *_launches(rows),
            *_tensor_clock(rows, facts),
        )
    }
    if clock_row is not None:
        source = f"measured: {file} {clock_row.id}, {clock_row.operator}"
        found["clock.boost"] = DetectedFact(boost_hz, "measured", source)
    return found


def _bandwidths(
    rows: Sequence[DeviceRow], facts: dict[str, DetectedFact], boost_hz: float
) -> Iterator[tuple[str, float, DeviceRow]]:
    pins = facts["dram.bandwidth"].value
    for path, names in (
        ("dram.read_efficiency", DRAM_READ),
        ("dram.mixed_efficiency", DRAM_COPY),
    ):
        row = from_dram(of(rows, names, "gbps"), pins)
        if row is not None:
            yield path, row.value / pins, row
    cycles_per_s = facts["sm_count"].value * boost_hz
    for path, begins in (
        ("l2.read_bytes_per_clock_per_sm", L2_READ),
        ("l2.write_bytes_per_clock_per_sm", L2_WRITE),
    ):
        row = from_l2(of(rows, begins, "gbps"), facts["l2.capacity"].value)
        if row is not None:
            yield path, row.value / cycles_per_s, row


def _launches(rows: Sequence[DeviceRow]) -> Iterator[tuple[str, float, DeviceRow]]:
    for path, names in (("launch.stream", LAUNCH_STREAM), ("launch.graph", LAUNCH_GRAPH)):
        row = typical(of(rows, names, "time"))
        if row is not None:
            yield path, row.value, row


def _tensor_clock(
    rows: Sequence[DeviceRow], facts: dict[str, DetectedFact]
) -> Iterator[tuple[str, float, DeviceRow]]:
    """The clock that the best GEMM implies: its rate over the FLOP of a cycle, a lower bound."""
    row = best_gemm(rows)
    if row is None or row.flops_per_s is None:
        return
    per_clock = facts[f"tensor_core.flops_per_clock.{row.dtype}"].value
    if per_clock:
        yield "clock.sustained_tensor", row.flops_per_s / (facts["sm_count"].value * per_clock), row


def _reconcile(facts: dict[str, DetectedFact]) -> None:
    """Facts of several origins must fit together: what was assumed gives way."""

    def at_most(path: str, limit_path: str) -> None:
        low, high = facts.get(path), facts[limit_path]
        if low is None or low.value is None or low.value <= high.value:
            return
        if high.mark == "assumed" and low.mark != "assumed":
            facts[limit_path] = replace(
                low, source=f"{low.source}; as {path}, {limit_path} is no less"
            )
        else:
            facts[path] = replace(high, source=f"{high.source}; as {limit_path}, {path} is no more")

    at_most("clock.sustained_tensor", "clock.tensor")
    at_most("clock.tensor", "clock.boost")
    at_most("clock.sustained_tensor", "clock.tensor")
    at_most("dram.mixed_efficiency", "dram.read_efficiency")
    at_most("launch.graph", "launch.stream")
    room = facts["shared_memory.capacity"].value - facts["shared_memory.max_per_block"].value
    if facts["shared_memory.reserved_per_block"].value > room:
        source = f"{facts['shared_memory.capacity'].source}; per SM less per block"
        facts["shared_memory.reserved_per_block"] = replace(
            facts["shared_memory.capacity"], value=room, source=source
        )
