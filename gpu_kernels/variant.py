"""One kernel as it would be compiled: argument types, constants, and the schedule it mirrors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fasim.problem import Attention
    from gpu_kernels.tiles import Pick


@dataclass(frozen=True)
class Variant:
    """One compilation of one Triton kernel, enough to compile it ahead of time without a GPU.

    kernel: the Triton JITFunction.
    signature: argument -> Triton type ('*fp16', 'fp32', 'i32', 'constexpr'), in the kernel's order.
    constants: the value of each argument marked 'constexpr'.
    schedule, kernel_name: the kernel of fasim's chain, an implementation's or a schedule's, whose
        loop and tiles it mirrors.
    tile_m, tile_n: rows and keys of a tile.
    """

    name: str
    kernel: object
    signature: Mapping[str, str]
    constants: Mapping[str, object]
    num_warps: int
    num_stages: int
    schedule: str
    kernel_name: str
    head_dim: int
    tile_m: int
    tile_n: int
    dtype: str
    causal: bool


def compiled_with(
    name: str,
    kernel: Any,
    pointers: Mapping[str, str],
    constants: Mapping[str, object],
    problem: Attention,
    pick: Pick,
    *,
    schedule: str,
    kernel_name: str,
) -> Variant:
    """The variant with these pointers and constants; other arguments are i32, a scale fp32."""

    def type_of(argument: str) -> str:
        if argument in constants:
            return "constexpr"
        if argument.startswith("scale"):
            return "fp32"
        return pointers.get(argument, "i32")

    return Variant(
        name=name,
        kernel=kernel,
        signature={argument: type_of(argument) for argument in kernel.arg_names},
        constants=constants,
        num_warps=pick.warps,
        num_stages=pick.stages,
        schedule=schedule,
        kernel_name=kernel_name,
        head_dim=problem.head_dim,
        tile_m=pick.tile_m,
        tile_n=pick.tile_n,
        dtype=problem.dtype,
        causal=problem.causal,
    )
