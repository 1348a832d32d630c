"""Inputs from the host before the first kernel, results back to it after the last."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fasim.problem import Host, ProblemError
from fasim.readings.footprint import RESULTS, intermediates
from fasim.schedules.language import Kernel
from fasim.schedules.record import cached_record

if TYPE_CHECKING:
    from fasim.hardware import Gpu


@dataclass(frozen=True)
class HostTransfer:
    """What passes between host and device, one direction after the other.

    Nothing overlaps it: the first kernel waits for its inputs whole, as `tensor.cuda()` does.
    """

    link: Host
    in_bytes: int
    out_bytes: int
    time_s: float

    def to_dict(self) -> dict[str, Any]:
        fields = asdict(self)
        return {**fields, "time_ms": fields.pop("time_s") * 1e3}


def host_transfer(kernels: tuple[Kernel, ...], gpu: Gpu, link: Host) -> HostTransfer | None:
    """The transfers of a chain; None where its tensors lie in device memory.

    Raises:
        ProblemError: the GPU has no such link.
    """
    if link == "none":
        return None
    rate = {"pcie": gpu.host.pcie_bytes_per_s, "nvlink": gpu.host.nvlink_bytes_per_s}[link]
    if rate is None:
        raise ProblemError(f"{gpu.name} has no {link}; its profile gives no rate for it")
    loaded, stored = dict[str, int](), dict[str, int]()
    for kernel in kernels:
        for op in cached_record(kernel).once():
            of = {"load": loaded, "store": stored, "reduce": stored}.get(op.kind)
            if of is not None:
                tensor = kernel.tensor(op.name)
                of[op.name] = tensor.allocated_bytes(kernel.lengths)
    handed_on = intermediates(kernels) - RESULTS
    in_bytes = sum(size for name, size in loaded.items() if name not in stored)
    out_bytes = sum(size for name, size in stored.items() if name not in handed_on)
    return HostTransfer(link, in_bytes, out_bytes, (in_bytes + out_bytes) / rate)
