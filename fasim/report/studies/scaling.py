"""The study of scaling with the sequence's length as text."""

from __future__ import annotations

from collections.abc import Callable

from fasim.report.predictions import scenario_line
from fasim.report.quantities import bytes_text, time_text
from fasim.report.tables import table
from fasim.verbs.studies.scaling import Scaled, ScalingStudy


def scaling_text(study: ScalingStudy) -> str:
    """Time, TFLOP/s and memory over the length, a column a schedule."""
    problem = study.problem
    mask = "causal" if problem.causal else "no mask"
    parts = [
        f"Scaling on {study.gpu}: {problem.direction}, {study.tokens} tokens in all, or one "
        f"sequence, {problem.heads} heads, head dimension {problem.head_dim}, {problem.dtype}, "
        f"{mask}\n{scenario_line(study.scenario)}",
        _over_length(study, "Time", lambda row: _or_oom(row, time_text(row.time_s))),
        _over_length(study, "TFLOP/s", lambda row: _or_oom(row, f"{row.tflops_per_s or 0:.4g}")),
        _over_length(study, "Device memory", lambda row: bytes_text(row.peak_bytes)),
        "\n".join((*_out_of_memory(study), *_refused(study))),
    ]
    return "\n\n".join(part for part in parts if part)


def _or_oom(row: Scaled, text: str) -> str:
    return "out of memory" if row.time_s is None else text


def _over_length(study: ScalingStudy, title: str, cell: Callable[[Scaled], str]) -> str:
    lengths = {row.seqlen: row.batch for row in study.rows}
    rows = [
        (
            str(seqlen),
            str(batch),
            *(cell(study.at(schedule, seqlen)) for schedule in study.schedules),
        )
        for seqlen, batch in lengths.items()
    ]
    return table(("N", "batch", *study.schedules), rows, left=0, title=title)


def _out_of_memory(study: ScalingStudy) -> list[str]:
    held = f"the {bytes_text(study.capacity_bytes)} of {study.gpu}"
    return [
        f"{name}: {held} do not hold N = {length}, {bytes_text(study.at(name, length).peak_bytes)}"
        for name in study.schedules
        if (length := study.out_of_memory(name)) is not None
    ]


def _refused(study: ScalingStudy) -> list[str]:
    return [f"refused: {name}: {reason}" for name, reason in study.refused.items()]
