"""The SM clock under load: the highest the part reaches, less what its power limit takes."""

from __future__ import annotations

from math import expm1, inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fasim.hardware import Gpu
    from fasim.problem import RunLength

# Power of an SM as the share of its peak tensor FLOPs it does, plus 0.8 of the busy share of its
# other pipes; dynamic power goes with f·V², and V with f, so f follows the cube root. The
# reference is the cuBLAS GEMM from which `clock.sustained_tensor` is known: 93 % of the tensor
# peak, the other pipes 15 % busy.
OTHER_PIPES = 0.8
GEMM_TENSOR, GEMM_OTHER = 0.93, 0.15


def sm_clock_hz(gpu: Gpu, utilisation: dict[str, float], run_length: RunLength | float) -> float:
    """Mean clock, over a run, of an SM whose pipes are busy for these shares of the time.

    A run begins at the highest clock, and falls exponentially to the steady one.

    Args:
        utilisation: 0 … 1 by pipe: tensor (of peak FLOPs, not of time), sfu, fp32, alu.
        run_length: `short`, `sustained`, or seconds: their limits are zero and infinity.
    """
    highest = gpu.clock.tensor_hz if utilisation.get("tensor", 0.0) > 0 else gpu.clock.boost_hz
    if run_length == "short" or gpu.clock.sustained_tensor_hz is None:
        return highest
    steady = min(highest, _allowed_hz(gpu.clock.sustained_tensor_hz, utilisation))
    left = _mean_decay(run_length, gpu.power.time_constant_s)
    return min(highest, steady + (highest - steady) * left)


def _allowed_hz(gemm_hz: float, utilisation: dict[str, float]) -> float:
    """The steady clock that the power limit allows a load, given the reference GEMM's."""
    # An integer instruction switches about half of what a floating-point one does.
    other = (
        utilisation.get("sfu", 0.0) + utilisation.get("fp32", 0.0) + utilisation.get("alu", 0.0) / 2
    )
    load = utilisation.get("tensor", 0.0) + OTHER_PIPES * other
    if load <= 0:
        return inf
    reference = GEMM_TENSOR + OTHER_PIPES * GEMM_OTHER
    return gemm_hz * float((reference / load) ** (1 / 3))


def _mean_decay(run_length: RunLength | float, time_constant_s: float | None) -> float:
    """Mean of exp(−t/τ) over a run; nothing where the power limit acts at once."""
    if isinstance(run_length, str) or time_constant_s is None:
        return 0.0
    constants = run_length / time_constant_s
    return -expm1(-constants) / constants
