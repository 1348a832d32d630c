"""The study of softmax as text."""

from __future__ import annotations

from fasim.report.predictions import scenario_line
from fasim.report.quantities import bytes_text, ratio_text, time_text
from fasim.report.tables import table
from fasim.verbs.studies.softmax import SoftmaxStudy


def softmax_text(study: SoftmaxStudy) -> str:
    """A row a schedule: accesses an element, bytes, time; times beside the first one's."""
    rows = [
        (
            way.schedule,
            f"{way.loads:g}",
            f"{way.stores:g}",
            *(bytes_text(way.bytes_at[level]) for level in ("compulsory", "dram", "global")),
            time_text(way.time_s),
            ratio_text(way.time_s / study.ways[0].time_s),
            way.bound,
            "right" if way.survives else "overflow",
        )
        for way in study.ways
    ]
    header = (
        "schedule",
        "loads",
        "stores",
        "compulsory",
        "dram*",
        "global",
        "time",
        "of the first",
        "bound by",
        "large scores",
    )
    return "\n\n".join(
        (
            f"Softmax on {study.gpu}: {study.rows} rows x {study.columns} columns, {study.dtype}\n"
            f"{scenario_line(study.scenario)}",
            table(header, rows),
            "loads and stores of an element at the global level, counted\n"
            "* modelled; compulsory and global are exact",
        )
    )
