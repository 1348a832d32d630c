"""How a predicted time hangs on each resource of the GPU.

The elasticity of a resource is the share of a per cent by which time moves when the resource
grows by one per cent; here its mean over a doubling, log2(time with twice as much / time). A
derivative would be noise: an in-order SM answers a small change in steps of a few per cent.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log2
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from fasim.readings.traffic import Traffic
from fasim.simulator.simulate import simulate

if TYPE_CHECKING:
    from fasim.hardware import Gpu
    from fasim.problem import Scenario
    from fasim.schedules.plan import Plan

Part = TypeVar("Part", bound=BaseModel)

_TENSOR_DTYPES = ("fp16", "bf16", "tf32", "fp8", "int8")
RESOURCES: Mapping[str, tuple[str, ...]] = {
    "sm_count": ("sm_count",),
    "sm_clock": ("clock.boost_hz", "clock.tensor_hz", "clock.sustained_tensor_hz"),
    "tensor_core": tuple(f"tensor_core.flops_per_clock.{dtype}" for dtype in _TENSOR_DTYPES),
    "sfu": ("sfu.lanes",),
    "fp32": ("fp32.lanes",),
    "alu": ("alu.lanes",),
    "shared_memory": ("shared_memory.bytes_per_clock",),
    "l2": ("l2.read_bytes_per_clock_per_sm", "l2.write_bytes_per_clock_per_sm"),
    "dram": ("dram.bandwidth_bytes_per_s",),
    "launch": ("launch.stream_s", "launch.graph_s"),
}
"""What is doubled at once, by name; of launches, the rate: their time is halved."""


def doubled(gpu: Gpu, resource: str) -> Gpu:
    """The GPU with twice as much of one of `RESOURCES`, and all else as it was.

    Raises:
        KeyError: no such resource.
    """
    factor = 0.5 if resource == "launch" else 2
    for path in RESOURCES[resource]:
        gpu = _scaled(gpu, path.split("."), factor)
    return gpu


def elasticities(
    plan: Plan,
    traffic: Traffic,
    gpu: Gpu,
    scenario: Scenario,
    time_s: float,
    fixed_s: float = 0.0,
) -> dict[str, float]:
    """Of each resource, the largest first. Tile, splits and the order of blocks stay as planned.

    Args:
        traffic: the plan's exact bytes and operations.
        time_s: what the plan takes on `gpu`.
        fixed_s: of it, what no resource of the GPU moves: transfers from and to the host.
    """

    def with_twice(resource: str) -> float:
        return simulate(plan, traffic, doubled(gpu, resource), scenario).time_s + fixed_s

    found = {resource: log2(with_twice(resource) / time_s) for resource in RESOURCES}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _scaled(part: Part, path: list[str], factor: float) -> Part:
    name, *rest = path
    value: Any = getattr(part, name)
    if rest:
        return part.model_copy(update={name: _scaled(value, rest, factor)})
    if value is None:  # a rate that the part does not have
        return part
    return part.model_copy(update={name: type(value)(value * factor)})
