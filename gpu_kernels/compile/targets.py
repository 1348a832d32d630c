"""The architectures kernels are compiled for."""

from __future__ import annotations

from triton.backends.compiler import GPUTarget

#: Architecture → compute capability, as Triton writes it.
CAPABILITIES = {"sm_80": 80, "sm_86": 86, "sm_89": 89, "sm_90": 90, "sm_100": 100}
WARP = 32


def target_of(arch: str) -> GPUTarget:
    """The compiler's name of an architecture.

    Raises:
        ValueError: it is none of `CAPABILITIES`.
    """
    if arch not in CAPABILITIES:
        known = ", ".join(CAPABILITIES)
        raise ValueError(f"arch is {arch!r}; choose from {known}")
    return GPUTarget("cuda", CAPABILITIES[arch], WARP)
