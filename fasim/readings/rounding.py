"""Correct rounding (to nearest, ties to even) of float32 values to the dtypes of attention."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

FP8_MAX = 448.0  # E4M3 (OCP 8-bit floating point specification, 2023): no infinity


def round_to(values: Array, dtype: str) -> Array:
    """`values` rounded to `dtype`, still held as float32.

    fp8 is E4M3 and saturates at ±448, as the GPU's conversion (`cvt.rn.satfinite`) does.

    Raises:
        ValueError: an unknown dtype.
    """
    if dtype == "fp32":
        return values
    if dtype == "fp16":
        with np.errstate(over="ignore"):  # beyond 65504 the result is infinite, as on a GPU
            return values.astype(np.float16).astype(np.float32)
    if dtype == "bf16":
        return _round_bf16(values)
    if dtype == "fp8":
        return _round_e4m3(values)
    raise ValueError(f"cannot round to {dtype!r}; choose from fp32, fp16, bf16, fp8")


def _round_bf16(values: Array) -> Array:
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    odd = (bits >> 16) & 1
    rounded = ((bits.astype(np.uint64) + 0x7FFF + odd) & 0xFFFF0000).astype(np.uint32)
    return np.where(np.isnan(values), values, rounded.view(np.float32)).astype(np.float32)


def _round_e4m3(values: Array) -> Array:
    # Three mantissa bits above 2^-6, a fixed step of 2^-9 below.
    _, exponent = np.frexp(values)
    step = np.exp2(np.maximum(exponent - 1, -6) - 3).astype(np.float32)
    with np.errstate(invalid="ignore"):  # NaN stays NaN, ±inf saturates
        rounded = np.rint(values / step) * step
        return np.clip(rounded, -FP8_MAX, FP8_MAX).astype(np.float32)
