"""Faults of a profile: every one is found, placed and printed on a line of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Position:
    """Where something was written: a file with line and column (from 1), or `--set` (0, 0)."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True)
class Fault:
    """One thing wrong, as `file:line:column: path: what and what would work`."""

    position: Position | None
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.position}: " if self.position else ""
        return f"{place}{self.path}: {self.message}"


class ProfileError(ValueError):
    """A profile that cannot be used. `faults` holds every reason; `str()` is one per line."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


def suggestion(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` is most likely a slip of, if any is close."""
    close = get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return close[0] if close else None
