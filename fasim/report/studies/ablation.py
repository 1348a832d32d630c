"""The ablation study as text."""

from __future__ import annotations

from fasim.report.quantities import percent_text, signed_percent_text
from fasim.report.tables import table
from fasim.simulator.mechanisms import MECHANISMS
from fasim.verbs.studies.ablation import Ablation, AblationStudy, GroupChange

HEADER = (
    "without",
    "median |error|",
    "90th percentile",
    "bias",
    "helps most",
    "median there",
    "hurts most",
    "median there",
)
LEGEND = (
    "groups: implementation, direction, with a causal mask or full, GPU (rows)\n"
    "median there: of the group's |error|, with the mechanism → without it"
)
UNCHANGED = 0.0005  # gains below are rounding


def ablation_text(study: AblationStudy) -> str:
    """A row a mechanism, and what stands in for each."""
    if not study.rows:
        return "no row could be predicted"
    n = study.rows[0].overall.n
    studied = {row.mechanism: MECHANISMS[row.mechanism] for row in study.rows if row.mechanism}
    legend = "\n".join(
        f"{name}: {mechanism.does}; without: {mechanism.without}"
        for name, mechanism in studied.items()
    )
    return "\n\n".join(
        [
            f"{n} rows of {study.path.name}, with every mechanism and without each",
            table(HEADER, [_cells(row) for row in study.rows]),
            LEGEND,
            legend,
        ]
    )


def _cells(row: Ablation) -> tuple[str, ...]:
    return (
        row.mechanism or "(nothing)",
        percent_text(row.overall.median),
        percent_text(row.overall.p90),
        signed_percent_text(row.overall.bias),
        *_change(row.best, helps=True),
        *_change(row.worst, helps=False),
    )


def _change(change: GroupChange | None, *, helps: bool) -> tuple[str, str]:
    if change is None or (change.gain if helps else -change.gain) < UNCHANGED:
        return "-", "-"
    gpu, implementation, direction, mask = change.group
    medians = f"{percent_text(change.median_with)} → {percent_text(change.median_without)}"
    return f"{implementation} {direction} {mask}, {gpu} ({change.n})", medians
