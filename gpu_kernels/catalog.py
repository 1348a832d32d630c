"""Every kernel as it is compiled for an architecture."""

from __future__ import annotations

from gpu_kernels import (
    backward,
    bandwidth,
    block_order,
    convert_rate,
    decode,
    exp2_rate,
    forward,
    softmax,
    standard,
    sweep_rate,
)
from gpu_kernels.variant import Variant

ARCHITECTURES = ("sm_80", "sm_89", "sm_90", "sm_100")
MODULES = (
    forward,
    backward,
    standard,
    softmax,
    decode,
    bandwidth,
    sweep_rate,
    exp2_rate,
    convert_rate,
    block_order,
)


def variants(arch: str) -> list[Variant]:
    """Default tiles, head_dim 64 and 128, causal and not, fp16 and bf16."""
    return [variant for module in MODULES for variant in module.variants(arch)]
