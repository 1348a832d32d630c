"""Units: text to base units and back."""

import re

import pytest

from fasim.hardware.units import BANDWIDTH, CAPACITY, COUNT, FREQUENCY, NUMBER, POWER, TIME


@pytest.mark.parametrize(
    ("dimension", "text", "value"),
    [
        (BANDWIDTH, "3.35 TB/s", 3.35e12),
        (BANDWIDTH, "6.7TB/s", 6.7e12),
        (BANDWIDTH, "1 GiB/s", 2**30),
        (CAPACITY, "228 KiB", 228 * 1024),
        (CAPACITY, "80 GB", 80_000_000_000),
        (CAPACITY, "80 GiB", 80 * 2**30),
        (CAPACITY, "126.5 MiB", 132_644_864),
        (FREQUENCY, "1.98 GHz", 1.98e9),
        (TIME, "391 ns", 391e-9),
        (TIME, "2.6 us", 2.6e-6),
        (TIME, "2.6 \u00b5s", 2.6e-6),  # the micro sign
        (TIME, "2.6 \u03bcs", 2.6e-6),  # the Greek letter
        (POWER, "700 W", 700.0),
        (POWER, "1.4e-1 kW", 140.0),
        (COUNT, "108", 108.0),
        (NUMBER, 35.5, 35.5),
        (BANDWIDTH, 3.35e12, 3.35e12),
    ],
)
def test_parse(dimension, text, value):
    assert dimension.parse(text) == value


@pytest.mark.parametrize(
    ("dimension", "text", "wanted"),
    [
        (BANDWIDTH, "3.35 GHz", "a bandwidth takes B/s, KB/s"),
        (BANDWIDTH, "3.35 Tb/s", "did you mean TB/s?"),
        (CAPACITY, "80 gb", "did you mean GB?"),
        (FREQUENCY, "1980 mhz", "did you mean MHz?"),
        (TIME, "fast", "write a number and a unit, as in 391 ns"),
        (TIME, "", "write a number and a unit"),
        (TIME, "nan", "write a number and a unit"),
        (TIME, "1e9999 ns", "a time takes"),
        (COUNT, "108 SM", "has a unit ('SM'); write a whole number such as 108"),
        (COUNT, True, "True is not a whole number"),
        (COUNT, [1], "write a whole number such as 108"),
    ],
)
def test_a_wrong_unit_says_what_works(dimension, text, wanted):
    with pytest.raises(ValueError, match=re.escape(wanted)):
        dimension.parse(text)


@pytest.mark.parametrize(
    ("dimension", "value", "text"),
    [
        (BANDWIDTH, 3.352e12, "3.352 TB/s"),
        (BANDWIDTH, 864e9, "864 GB/s"),
        (CAPACITY, 228 * 1024, "228 KiB"),
        (CAPACITY, 132_644_864, "126.5 MiB"),
        (FREQUENCY, 1.41e9, "1.41 GHz"),
        (TIME, 391e-9, "391 ns"),
        (TIME, 2.62e-6, "2.62 us"),
        (TIME, 0.0, "0 ps"),
        (POWER, 1000.0, "1000 W"),
        (COUNT, 65536, "65536"),
        (COUNT, 1_000_000_000, "1000000000"),
    ],
)
def test_format_and_back(dimension, value, text):
    assert dimension.format(value) == text
    assert dimension.parse(text) == pytest.approx(value, rel=1e-12)
