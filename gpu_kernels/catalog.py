"""Every kernel as it is compiled for an architecture."""

from __future__ import annotations

from gpu_kernels import backward, bandwidth, decode, exp2_rate, forward, softmax, standard
from gpu_kernels.variant import Variant

ARCHITECTURES = ("sm_80", "sm_89", "sm_90", "sm_100")
MODULES = (forward, backward, standard, softmax, decode, bandwidth, exp2_rate)


def variants(arch: str) -> list[Variant]:
    """Default tiles, head_dim 64 and 128, causal and not, fp16 and bf16."""
    return [variant for module in MODULES for variant in module.variants(arch)]
