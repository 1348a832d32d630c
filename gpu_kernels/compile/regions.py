"""Regions of the compiler's IR as printed: the lines between which a loop runs."""

from __future__ import annotations

from collections.abc import Sequence

LOOPS = ("scf.for", "scf.while")


def loop_lines(lines: Sequence[str]) -> list[tuple[int, int]]:
    """First and last line of every loop, inner ones first."""
    depth, begun, found = 0, list[tuple[int, int]](), list[tuple[int, int]]()
    for number, line in enumerate(lines):
        code = line.split(" loc(")[0]
        if any(f" {name} " in code for name in LOOPS):
            begun.append((number, depth))
        depth += code.count("{") - code.count("}")
        while begun and depth <= begun[-1][1] and number > begun[-1][0]:
            found.append((begun.pop()[0], number))
    return found
