"""The table of aims in docs/accuracy.md: what error each group should have, and what it has.

`python -m tests.aims` writes it anew from the rows that `fasim validate` prints above it.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from pathlib import Path

from fasim.verbs.measured.measurement_file import read
from fasim.verbs.measured.measurements import Measurement, published

DOCUMENT = Path(__file__).parent.parent / "docs" / "accuracy.md"
BEGIN, END = "<!-- aims -->\n", "<!-- /aims -->\n"
HEADER = (
    "| rows | n | median, aim | median | 90th percentile, aim | 90th percentile |",
    "|---|---|---|---|---|---|",
)

Row = Callable[[Measurement], bool]


def _runs(name: str, gpu: str = "", direction: str = "") -> Row:
    def runs(row: Measurement) -> bool:
        return (
            row.implementation == name
            and row.gpu.startswith(gpu)
            and row.direction.startswith(direction)
        )

    return runs


def _long(gpu: str) -> Row:
    def standard(row: Measurement) -> bool:
        chain = row.implementation in ("pytorch", "megatron")
        return chain and row.gpu.startswith(gpu) and row.problem.seqlen_k >= 1024

    return standard


def _decodes(row: Measurement) -> bool:
    return row.problem.seqlen_q == 1


AIMS: tuple[tuple[str, Row, float, float | None], ...] = (
    ("all", lambda _: True, 6.5, 18),
    (
        "`flash-attn-2` on A100, decode apart",
        lambda row: _runs("flash-attn-2", "a100")(row) and not _decodes(row),
        4,
        10,
    ),
    ("`flash-attn-2` on H100", _runs("flash-attn-2", "h100"), 4, 10),
    ("`flash-attn-3` forward", _runs("flash-attn-3"), 6, None),
    ("`flash-attn-1`", _runs("flash-attn-1"), 8, None),
    ("`pytorch` and `megatron`, S ≥ 1024, A100", _long("a100"), 5, None),
    ("the same on H100", _long("h100"), 10, None),
    ("decode, A100", _decodes, 9, None),
    ("RTX 4090 forward", _runs("flash-attn-2", "rtx4090", "fwd"), 6, None),
    ("RTX 4090 backward", _runs("flash-attn-2", "rtx4090", "bwd"), 10, None),
)
"""Rows, and per cent that their median and 90th percentile of |error| should be at most."""


def table() -> str:
    """The table, from the rows printed in the document."""
    errors = printed_errors()
    measured = {row.id: row for row in read(published()).rows}
    lines = list(HEADER)
    for name, runs, median, p90 in AIMS:
        found = [abs(error) for id_, error in errors.items() if runs(measured[id_])]
        worst = statistics.quantiles(found, n=10, method="inclusive")[-1]
        aim = f"{p90:g} %" if p90 else "-"
        lines.append(
            f"| {name} | {len(found)} | {median:g} % | {_said(statistics.median(found), median)} | "
            f"{aim} | {_said(worst, p90)} |"
        )
    return "\n".join(lines) + "\n"


def _said(error: float, aim: float | None) -> str:
    text = f"{error * 100:.1f} %"
    return f"**{text}**" if aim and error * 100 > aim else text


def printed_errors() -> dict[str, float]:
    """Signed errors by id, as `fasim validate` prints them in the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    block = text.partition("$ fasim validate\n")[2].partition("\n```")[0].partition("\ngpu ")[0]
    found = re.finditer(r"^(\S+) .* ([+-]\d+\.\d) %$", block, re.MULTILINE)
    return {row[1]: float(row[2]) / 100 for row in found}


if __name__ == "__main__":
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(before + BEGIN + table() + END + after, encoding="utf-8")
