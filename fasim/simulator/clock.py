"""The SM clock under load: the highest the part reaches, less what its power limit takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fasim.hardware import Gpu

# Power of an SM as the share of its peak tensor FLOPs it does, plus 0.8 of the busy share of its
# other pipes; dynamic power goes with f·V², and V with f, so f follows the cube root. The
# reference is the cuBLAS GEMM from which `clock.sustained_tensor` is known: 93 % of the tensor
# peak, the other pipes 15 % busy.
OTHER_PIPES = 0.8
GEMM_TENSOR, GEMM_OTHER = 0.93, 0.15


def sm_clock_hz(gpu: Gpu, utilisation: dict[str, float], sustained: bool) -> float:
    """Clock of an SM whose pipes are busy for these shares of the time.

    Args:
        utilisation: 0 … 1 by pipe: tensor (of peak FLOPs, not of time), sfu, fp32, alu.
        sustained: whether the run is long enough for the power limit to act.
    """
    tensor = utilisation.get("tensor", 0.0)
    highest = gpu.clock.tensor_hz if tensor > 0 else gpu.clock.boost_hz
    if not sustained or gpu.clock.sustained_tensor_hz is None:
        return highest
    # An integer instruction switches about half of what a floating-point one does.
    other = (
        utilisation.get("sfu", 0.0) + utilisation.get("fp32", 0.0) + utilisation.get("alu", 0.0) / 2
    )
    load = tensor + OTHER_PIPES * other
    if load <= 0:
        return highest
    reference = GEMM_TENSOR + OTHER_PIPES * GEMM_OTHER
    return min(highest, gpu.clock.sustained_tensor_hz * float((reference / load) ** (1 / 3)))
