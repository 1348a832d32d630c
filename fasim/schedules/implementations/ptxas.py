"""What ptxas, the assembler in every compiler for CUDA, makes of a main loop, by its version.

Source: scoreboards of HMMA and LDSM in machine code. Of FlashAttention-2, versions 2.0.8 and
2.5.7, as CUDA 11.8 and 12.1 compiled them: of 144 ldmatrix in the backward loop of head_dim 64,
62 and 66 wait for products. Of the loops of `gpu_kernels`, the same PTX by ptxas 12.0 to 12.3
(they wait, for sm_80 and sm_89 alike), 12.4 and 12.9 (none waits).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fasim.hardware import Gpu

Version = tuple[int, int]

GUARDED_ARCHITECTURES = ("sm_80", "sm_86", "sm_89")  # compiled for sm_90, no version does it
UNGUARDED_SINCE: Version = (12, 4)


def guards_fragments(gpu: Gpu, version: Version) -> bool:
    """Whether `Mapping.guarded_fragments` holds of what a version of ptxas compiles.

    Args:
        version: of CUDA, (major, minor).
    """
    return gpu.architecture in GUARDED_ARCHITECTURES and version < UNGUARDED_SINCE
