"""One kernel as it would be compiled: its argument types, its constants, and the schedule it mirrors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """One compilation of one Triton kernel, enough to compile it ahead of time without a GPU.

    kernel: the Triton JITFunction.
    signature: argument -> Triton type ('*fp16', 'fp32', 'i32', 'constexpr'), in the kernel's order.
    constants: the value of each argument marked 'constexpr'.
    schedule, kernel_name: the kernel of fasim's chain whose loop and tiles it mirrors.
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
