"""What Triton's interpreter computes otherwise than a GPU, or not at all, set right.

Until 3.9 it multiplies bf16 by its bit patterns and rounds to bf16 towards zero; 3.6 cannot take
a loop's bound from an array of one with numpy ≥ 2.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

Builder = Any


def float32_of(handle: Any) -> np.ndarray:
    """A tile's values; bf16 lies in the upper half of a float32."""
    if handle.dtype.scalar == tl.bfloat16:
        return (handle.data.astype(np.uint32) << 16).view(np.float32)
    return handle.data.astype(np.float32)


def bfloat16_of(values: np.ndarray) -> np.ndarray:
    """Bit patterns of float32 values rounded to nearest, ties to even; NaN stays one."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def create_dot(a: Any, b: Any, d: Any, *_: Any) -> Any:
    """d + a·b with FP32 accumulation, of any dtype that has an FP32 value."""
    product = np.matmul(float32_of(a), float32_of(b))
    return interpreter.TensorHandle(product + d.data, d.dtype.scalar)


def casting(original: Callable[..., Any]) -> Callable[..., Any]:
    """`cast_impl` with rounding to and from bf16 as a GPU does it."""

    def cast_impl(src: Any, dst_type: Any) -> Any:
        pair = src.dtype.scalar, dst_type.scalar
        if pair == (tl.float32, tl.bfloat16):
            return interpreter.TensorHandle(bfloat16_of(src.data), tl.bfloat16)
        if pair == (tl.bfloat16, tl.float32):
            return interpreter.TensorHandle(float32_of(src), tl.float32)
        return original(src, dst_type)

    return cast_impl


def indexing(original: Callable[..., None]) -> Callable[..., None]:
    """`_patch_lang_tensor` whose tensors of one element are whole numbers for `range`."""

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.reshape(-1)[0]))

    return patch_lang_tensor
