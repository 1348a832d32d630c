"""Correct rounding (to nearest, ties to even) of float32 values to the dtypes of attention."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

FP8_MAX = 448.0  # E4M3 (OCP 8-bit floating point specification, 2023): no infinity
# Low bits of a float32 mantissa that a narrower one of the same exponent range drops.
DROPPED_BITS = {"bf16": 16, "tf32": 13}


def round_to(values: Array, dtype: str) -> Array:
    """`values` rounded to `dtype`, still held as float32.

    fp16 overflows to infinity. fp8 is E4M3 and saturates at ±448, as the GPU's conversion
    (`cvt.rn.satfinite`) does. tf32 is what a tensor core sees of an fp32 operand.

    Raises:
        ValueError: an unknown dtype.
    """
    values = np.asarray(values, np.float32)
    if dtype in ("fp32", "int32"):  # indices stay far below 2^24
        return values
    if dtype == "bool":  # whether it is anything
        return np.asarray(values != 0, np.float32)
    if dtype == "fp16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    if dtype in DROPPED_BITS:
        return _shorten_mantissa(values, DROPPED_BITS[dtype])
    if dtype == "fp8":
        return _round_e4m3(values)
    raise ValueError(f"cannot round to {dtype!r}; choose from fp32, tf32, bf16, fp16, fp8")


def _shorten_mantissa(values: Array, dropped: int) -> Array:
    # The bits of a float32 grow with its magnitude: adding just under half a step (half, where
    # the last kept bit is odd) and cutting rounds it, carries into the exponent included.
    bits = values.view(np.uint32).astype(np.uint64)
    odd = (bits >> np.uint64(dropped)) & np.uint64(1)
    bits += np.uint64((1 << dropped - 1) - 1) + odd
    bits &= np.uint64(0xFFFFFFFF >> dropped << dropped)
    rounded = bits.astype(np.uint32).view(np.float32)
    return np.where(np.isnan(values), values, rounded)


def _round_e4m3(values: Array) -> Array:
    # Three mantissa bits from 2^-6 up, a fixed step of 2^-9 below.
    _, exponent = np.frexp(values)
    step = np.exp2(np.maximum(exponent - 1, -6) - 3).astype(np.float32)
    with np.errstate(invalid="ignore"):  # NaN stays NaN, ±inf saturates
        rounded: Array = np.rint(values / step) * step
        return np.clip(rounded, np.float32(-FP8_MAX), np.float32(FP8_MAX))
