"""The study of FlashAttention-1's block size as text."""

from __future__ import annotations

from fasim.report.predictions import problem_line, scenario_line
from fasim.report.quantities import bytes_text, time_text
from fasim.report.tables import table
from fasim.verbs.studies.block_size import PROBLEM, ROWS, BlockSizeStudy


def block_size_text(study: BlockSizeStudy) -> str:
    """A row a block size: bytes, shared memory, time, what binds."""
    rows = [
        (
            f"{ROWS}x{row.columns}",
            *(bytes_text(row.bytes_at[level]) for level in ("global", "l2", "dram")),
            bytes_text(row.shared_memory_bytes),
            time_text(row.time_s),
            row.bound,
        )
        for row in study.rows
    ]
    header = ("block", "global", "l2*", "dram*", "shared memory", "time", "bound by")
    parts = [
        f"FlashAttention-1 on {study.gpu} by the rows of K and V a block holds\n"
        f"{problem_line(PROBLEM)}\n{scenario_line(study.scenario)}",
        table(header, rows),
    ]
    if study.refused:
        parts.append(
            "\n".join(
                f"refused: {ROWS}x{columns}: {reason}" for columns, reason in study.refused.items()
            )
        )
    parts.append("* modelled; global is exact")
    return "\n\n".join(parts)
