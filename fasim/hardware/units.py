"""Units at the edge: text such as `3.35 TB/s` becomes a number in a base unit, and back.

Base units are the byte, the second, the hertz and the watt. Prefixes mean what they say:
KiB, MiB, GiB are powers of 1024 and KB, MB, GB powers of 1000. Memory sold as "80 GB" holds
80 GiB, as does SRAM of "228 KB" (228 KiB), so profiles write GiB and KiB. Standard library only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from difflib import get_close_matches

_AMOUNT = re.compile(
    r"([-+]?(?:[0-9]{1,30}\.?[0-9]{0,30}|\.[0-9]{1,30})(?:[eE][-+]?[0-9]{1,3})?)\s*(\D.*)?"
)


@dataclass(frozen=True)
class Dimension:
    """What a number measures, and the units it may be written in.

    Attributes:
        noun: the quantity in a message, with its article.
        base: the unit of the numbers inside the program.
        factors: how many base units each unit is; exact decimals.
        example: an amount as a person would write it.
        shown: the units for printing, smallest first.
    """

    noun: str
    base: str
    example: str
    factors: Mapping[str, Decimal] = field(default_factory=dict, hash=False)
    shown: tuple[str, ...] = ()

    def parse(self, value: object) -> float:
        """The amount in base units. A bare number counts in base units already.

        Raises:
            ValueError: not a number, or a unit that measures something else.
        """
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(f"{_quoted(value)} is not {self.noun}; write {self.wanted}")
        if not isinstance(value, str):
            return float(value)
        match = _AMOUNT.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"{_quoted(value)} is not {self.noun}; write {self.wanted}")
        number, unit = match.groups()
        if unit is None:
            return float(number)
        unit = unit.replace("\u03bc", "\u00b5")  # the Greek letter for the micro sign
        if unit not in self.factors:
            raise ValueError(f"{_quoted(value)} {self._unit_fault(unit)}")
        return float(Decimal(number) * self.factors[unit])

    def format(self, value: float, digits: int = 6) -> str:
        """`value` base units as text, in the largest unit that leaves 1 or more."""
        unit = next((u for u in reversed(self.shown) if abs(value) >= self.factors[u]), "")
        if not unit:
            unit = self.shown[0] if self.shown else ""
        amount = value / float(self.factors[unit]) if unit else value
        text = f"{amount:.{digits}g}"
        if "e" in text and abs(amount) < 1e15:
            text = f"{amount:.0f}"
        return f"{text} {unit or self.base}".strip()

    @property
    def wanted(self) -> str:
        """What to write, for a message."""
        what = "a number and a unit, as in" if self.factors else f"{self.noun} such as"
        return f"{what} {self.example}"

    def _unit_fault(self, unit: str) -> str:
        if not self.factors:
            return f"has a unit ({_quoted(unit)}); write {self.wanted}"
        by_lower = {name.lower(): name for name in self.factors}
        close = get_close_matches(unit.lower(), by_lower, n=1, cutoff=0.6)
        hint = f"did you mean {by_lower[close[0]]}? " if close else ""
        units = ", ".join(self.factors)
        return (
            f"has the unit {_quoted(unit)}; {hint}{self.noun} takes {units}, as in {self.example}"
        )


def _quoted(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _factors(base: str, **prefixes: str) -> dict[str, Decimal]:
    return {base: Decimal(1), **{name: Decimal(factor) for name, factor in prefixes.items()}}


_DECIMAL = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_BYTES = {"B": Decimal(1)} | {f"{p}B": Decimal(f) for p, f in (_DECIMAL | _BINARY).items()}
_RATES = {"": 1} | _DECIMAL

CAPACITY = Dimension("a capacity", "B", "228 KiB", _BYTES, ("B", "KiB", "MiB", "GiB", "TiB"))
BANDWIDTH = Dimension(
    "a bandwidth",
    "B/s",
    "3.35 TB/s",
    {f"{unit}/s": factor for unit, factor in _BYTES.items()},
    ("B/s", "KB/s", "MB/s", "GB/s", "TB/s", "PB/s"),
)
FREQUENCY = Dimension(
    "a clock",
    "Hz",
    "1.98 GHz",
    _factors("Hz", kHz="1e3", MHz="1e6", GHz="1e9", THz="1e12"),
    ("Hz", "kHz", "MHz", "GHz", "THz"),
)
TIME = Dimension(
    "a time",
    "s",
    "391 ns",
    _factors("s", ms="1e-3", us="1e-6", ns="1e-9", ps="1e-12") | {"\u00b5s": Decimal("1e-6")},
    ("ps", "ns", "us", "ms", "s"),
)
POWER = Dimension("a power", "W", "700 W", _factors("W", kW="1e3", mW="1e-3"), ("W",))
COUNT = Dimension("a whole number", "", "108")
NUMBER = Dimension("a number", "", "35.5")
SHARE = Dimension("a share", "", "0.9")

# Of derived quantities: printed, never read.
FLOP_RATE = Dimension(
    "a FLOP rate",
    "FLOP/s",
    "989 TFLOP/s",
    {f"{prefix}FLOP/s": Decimal(factor) for prefix, factor in _RATES.items() if prefix != "P"},
    ("FLOP/s", "GFLOP/s", "TFLOP/s"),
)
OPERATION_RATE = Dimension(
    "a rate",
    "op/s",
    "4 Top/s",
    {f"{prefix}op/s": Decimal(factor) for prefix, factor in _RATES.items() if prefix != "P"},
    ("op/s", "Gop/s", "Top/s"),
)
INTENSITY = Dimension("an intensity", "FLOP/B", "153 FLOP/B")
CYCLES = Dimension("a number of cycles", "", "8")


def is_whole(value: float) -> bool:
    """Whether a float is a whole number, give or take rounding; never for NaN or infinity."""
    return math.isfinite(value) and math.isclose(value, round(value), rel_tol=1e-12)
