"""Plain tables: aligned columns that look the same in a terminal, a file and the docs."""

from __future__ import annotations

from collections.abc import Sequence

BETWEEN = "   "  # two columns


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: int = 1,
    title: str = "",
) -> str:
    """Columns under a header; the first `left` are flush left, numbers flush right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return BETWEEN.join(aligned).rstrip()

    rule = "─" * (sum(widths) + len(BETWEEN) * (len(widths) - 1))
    lines = [line(header), rule, *map(line, rows)]
    return "\n".join([title, *lines] if title else lines)
