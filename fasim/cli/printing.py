"""Results on stdout, as text or JSON; notes and progress on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any


def print_result(to_dict: Callable[[], Any], to_text: Callable[[], str], as_json: bool) -> None:
    """A result as one JSON document or as text."""
    if as_json:
        print_json(to_dict())
    else:
        print(to_text())


def print_json(document: Any) -> None:
    """One JSON document on stdout, its notes on stderr."""
    if isinstance(document, dict):
        for note in document.get("assumptions", ()):
            print_note(note)
    print(json.dumps(document, indent=2, allow_nan=False))


def print_note(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr)


def progress_of(what: str) -> Callable[[int, int], None]:
    """A line on stderr that counts up, on a terminal only, after the first second."""
    import time

    started = time.monotonic()

    def show(done: int, of: int) -> None:
        if sys.stderr.isatty() and time.monotonic() - started > 1:
            print(f"\r{done} of {of} {what}", end="\n" if done == of else "", file=sys.stderr)

    return show
