"""Plain tables: aligned columns that look the same in a terminal, a file and the docs."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 400  # wider than any table: a narrow terminal wraps lines, cells are never cut


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: int = 1,
    title: str = "",
) -> str:
    """Columns under a header; the first `left` are flush left, numbers flush right."""
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, name in enumerate(header):
        drawn.add_column(name, justify="left" if index < left else "right", no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    stream = StringIO()
    console = Console(
        file=stream, width=WIDTH, color_system=None, highlight=False, markup=False, emoji=False
    )
    console.print(drawn)
    body = "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())
    return f"{title}\n{body}" if title else body
