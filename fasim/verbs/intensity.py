"""Arithmetic intensity against the ridge point: is it FLOPs or memory access that must cost more?

A classifier by the roofline alone. What a prediction is bound by in the end, with everything the
roofline leaves out, its stalls say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fasim.readings.traffic import Flops, Level, total
from fasim.schedules.language import Kernel

if TYPE_CHECKING:
    from fasim.hardware import Gpu


@dataclass(frozen=True)
class Intensity:
    """Operations for each byte, beside what the GPU can do for each byte it moves.

    Attributes:
        unit: `tensor` or `fp32`: where the operations run whose peak makes the ridge.
        flops: useful ones on tensor cores, or all operations where nothing is multiplied there.
        moved_bytes: compulsory: every distinct byte of each kernel once, in and out.
        ridge_flops_per_byte: peak of the unit over the pin bandwidth of DRAM.
    """

    unit: Literal["tensor", "fp32"]
    flops: int
    moved_bytes: int
    ridge_flops_per_byte: float

    @property
    def flops_per_byte(self) -> float:
        return self.flops / self.moved_bytes

    @property
    def bound(self) -> Literal["compute", "memory"]:
        """Of the two, what the roofline says takes longer."""
        return "compute" if self.flops_per_byte >= self.ridge_flops_per_byte else "memory"

    def to_dict(self) -> dict[str, Any]:
        return {
            "unit": self.unit,
            "flops": self.flops,
            "bytes": self.moved_bytes,
            "flops_per_byte": self.flops_per_byte,
            "ridge_flops_per_byte": self.ridge_flops_per_byte,
            "bound": self.bound,
        }


def intensity(
    kernels: tuple[Kernel, ...], flops: Flops, compulsory: Level, tensor_dtype: str, gpu: Gpu
) -> Intensity:
    """The intensity of a chain of kernels on a GPU.

    Args:
        tensor_dtype: at whose rate tensor cores multiply here.
    """
    units = {kernel.mapping.matrix_unit for kernel in kernels} - {"none"}
    rate = gpu.tensor_flops_per_s(tensor_dtype)
    on_tensor_cores = bool(flops.tensor) and "ffma" not in units and rate is not None
    peak = rate if on_tensor_cores and rate is not None else gpu.fp32_flops_per_s
    work = flops.tensor_useful if flops.tensor else flops.fp32 + flops.sfu
    return Intensity(
        "tensor" if on_tensor_cores else "fp32",
        work,
        total(compulsory).total_bytes,
        peak / gpu.dram.bandwidth_bytes_per_s,
    )
