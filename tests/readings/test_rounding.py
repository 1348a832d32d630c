"""Rounding against tables that are made without it: every E4M3 code, random bfloat16 bits."""

import itertools
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasim.readings.rounding import round_to


def e4m3(code: int) -> float:
    """The value of a code: OCP 8-bit floating point specification, section 5."""
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = code >> 3 & 0xF, code & 7
    if exponent == 15 and mantissa == 7:
        return math.nan
    if exponent == 0:
        return sign * mantissa * 2.0**-9
    return sign * (8 + mantissa) * 2.0 ** (exponent - 10)


POSITIVE = [e4m3(code) for code in range(0x7F)]  # by magnitude, 0 … 448


def rounded(value: float, dtype: str) -> float:
    return float(round_to(np.array([value], np.float32), dtype)[0])


def bits_of(value: float) -> int:
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return int(bits)


def float_of(bits: int) -> float:
    (value,) = struct.unpack("<f", struct.pack("<I", bits))
    return float(value)


def test_every_e4m3_code_is_its_own_rounding() -> None:
    for code in range(256):
        value = e4m3(code)
        back = rounded(value, "fp8")
        if math.isnan(value):
            assert math.isnan(back)
        else:
            assert back == value
            assert math.copysign(1, back) == math.copysign(1, value)
    assert max(POSITIVE) == 448
    assert min(v for v in POSITIVE if v) == 2.0**-9


def test_e4m3_midpoints_go_to_even_and_neighbours_to_the_nearest() -> None:
    for code, (low, high) in enumerate(itertools.pairwise(POSITIVE)):
        middle = np.float32((low + high) / 2)  # exact: one bit more than E4M3 has
        even = low if code % 2 == 0 else high
        for sign in (1, -1):
            assert rounded(sign * float(middle), "fp8") == sign * even
            below, above = (
                np.nextafter(middle, np.float32(0)),
                np.nextafter(middle, np.float32(1e9)),
            )
            assert rounded(sign * float(below), "fp8") == sign * low
            assert rounded(sign * float(above), "fp8") == sign * high


@pytest.mark.parametrize("value", [449.0, 464.0, 480.0, 1e6, 3e38, math.inf])
def test_e4m3_saturates(value: float) -> None:
    assert rounded(value, "fp8") == 448
    assert rounded(-value, "fp8") == -448


@pytest.mark.parametrize(("dtype", "dropped"), [("bf16", 16), ("tf32", 13)])
@given(bits=st.integers(0, 2**32 - 1))
def test_short_mantissas_round_to_the_nearest_of_their_two_neighbours(
    dtype: str, dropped: int, bits: int
) -> None:
    value = float_of(bits)
    got = rounded(value, dtype)
    if math.isnan(value):
        assert math.isnan(got)
        return
    if math.isinf(value):
        assert got == value
        return
    low_bits = bits >> dropped << dropped
    low = float_of(low_bits)
    # One step on, past the largest finite number too: there the step is as wide as before it.
    step = abs(low - float_of(low_bits ^ 1 << dropped))
    high = low + math.copysign(step, value) if value else low
    even = low if not low_bits >> dropped & 1 else high
    nearer = {True: low, False: high}
    distance_low, distance_high = abs(value - low), abs(high - value)
    expected = even if distance_low == distance_high else nearer[distance_low < distance_high]
    limit = float_of(0x7F800000 - (1 << dropped))
    assert got == (math.copysign(math.inf, value) if abs(expected) > limit else expected)


def test_bfloat16_by_hand() -> None:
    assert rounded(1 + 2**-8, "bf16") == 1  # halfway, to even
    assert rounded(1 + 3 * 2**-8, "bf16") == 1 + 2**-6  # halfway, to even, upwards
    assert rounded(1 + 2**-8 + 2**-20, "bf16") == 1 + 2**-7
    assert rounded(float_of(0x7F7FFFFF), "bf16") == math.inf
    assert math.copysign(1, rounded(-0.0, "bf16")) == -1


def test_half_precision_by_hand() -> None:
    assert rounded(65504, "fp16") == 65504
    assert rounded(65520, "fp16") == math.inf
    assert rounded(1 + 2**-11, "fp16") == 1
    assert rounded(2**-24, "fp16") == 2**-24  # the smallest subnormal
    assert rounded(2**-25, "fp16") == 0


@pytest.mark.parametrize("dtype", ["fp32", "tf32", "bf16", "fp16", "fp8"])
def test_rounding_twice_is_rounding_once_and_keeps_shape(dtype: str) -> None:
    values = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    once = round_to(values[:, ::2], dtype)
    assert once.dtype == np.float32
    assert once.shape == (5, 4)
    np.testing.assert_array_equal(round_to(once, dtype), once)
    assert round_to(np.float32(1.5), dtype) == 1.5


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp8"])
def test_what_a_dtype_holds_is_exact_in_tf32(dtype: str) -> None:
    """So rounding every operand of a product to TF32 changes only fp32 ones."""
    values = np.random.default_rng(1).standard_normal(1000) * np.logspace(-9, 4, 1000)
    held = round_to(values.astype(np.float32), dtype)
    np.testing.assert_array_equal(round_to(held, "tf32"), held)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot round to 'fp4'; choose from fp32, tf32, bf16"):
        round_to(np.zeros(1, np.float32), "fp4")
