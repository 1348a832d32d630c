"""What a field of a profile accepts: a quantity in a unit, a choice, a list of choices, a text.

Each is metadata for `typing.Annotated`: pydantic reads values through it, the JSON Schema and
the table of fields describe it. Messages say what was written and what would work.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from fasim.hardware.faults import suggestion
from fasim.hardware.units import COUNT, Dimension, is_whole


class Kind(ABC):
    """A way to read one field; `read` returns the value or raises ValueError."""

    @abstractmethod
    def read(self, value: object) -> Any:
        """The value of what a profile or an override holds."""

    def format(self, value: Any) -> str:
        return str(value)

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)


@dataclass(frozen=True)
class Quantity(Kind):
    """A number of `dimension` from `low` to `high`, both in base units and both allowed.

    The bounds are wide: they keep out what no machine could be, and slips of a unit
    (a bandwidth of 3350 without one would be 3350 bytes per second).
    """

    dimension: Dimension
    low: float
    high: float
    whole: bool = False
    optional: bool = False

    def read(self, value: object) -> float | int | None:
        if value is None:
            if self.optional:
                return None
            raise ValueError(f"no value; write {self.dimension.wanted}")
        amount = self.dimension.parse(value)
        if not self.low <= amount <= self.high:  # NaN fails here too
            low, high = self.dimension.format(self.low), self.dimension.format(self.high)
            unit = f", as in {self.dimension.example}" if self.dimension.factors else ""
            if unit and not isinstance(value, str):
                unit += f"; a bare number is in {self.dimension.base}"
            raise ValueError(f"{value} is out of range; from {low} to {high} would work{unit}")
        if not self.whole:
            return amount
        if not is_whole(amount):
            unit = f" of {self.dimension.base}" if self.dimension.base else ""
            raise ValueError(f"{value} is not a whole number{unit}; write {self.dimension.wanted}")
        return round(amount)

    def format(self, value: float | None) -> str:
        return "none" if value is None else self.dimension.format(value)


def count(low: int = 1, high: int = 1_000_000, *, optional: bool = False) -> Quantity:
    """A whole number without a unit."""
    return Quantity(COUNT, low, high, whole=True, optional=optional)


@dataclass(frozen=True)
class Choice(Kind):
    """One of some words."""

    choices: tuple[str, ...]

    def read(self, value: object) -> str:
        if isinstance(value, str) and value in self.choices:
            return value
        close = suggestion(str(value), self.choices)
        hint = f"; did you mean {close}?" if close else ""
        raise ValueError(f"{value!r} is none of {', '.join(self.choices)}{hint}")


@dataclass(frozen=True)
class Choices(Kind):
    """A list of different words out of some; on the command line separated by commas."""

    choices: tuple[str, ...]

    def read(self, value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            value = [word.strip() for word in value.split(",") if word.strip()]
        if not isinstance(value, list | tuple):
            raise ValueError(f"{value!r} is not a list; write one, as in [{self.choices[0]}]")
        words = tuple(Choice(self.choices).read(word) for word in value)
        if len(set(words)) < len(words):
            raise ValueError(f"{', '.join(words)}: something stands twice; keep one")
        return words

    def format(self, value: tuple[str, ...]) -> str:
        return ", ".join(value) or "none"


@dataclass(frozen=True)
class Text(Kind):
    """One line of text."""

    limit: int = 200

    def read(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not a text; put it in quotes")
        if not value.strip() or len(value) > self.limit or not value.isprintable():
            raise ValueError(f"write one line of 1 to {self.limit} characters")
        return value
