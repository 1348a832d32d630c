"""The study of split-KV as text."""

from __future__ import annotations

from fasim.report.predictions import scenario_line
from fasim.report.quantities import ratio_text, time_text
from fasim.report.tables import table
from fasim.verbs.studies.split_kv import SplitKvStudy


def split_kv_text(study: SplitKvStudy) -> str:
    """Times over the number of keys, then the crossover over the number of blocks."""
    problem = study.problem
    rows = [
        (
            str(row.seqlen_k),
            str(row.num_splits),
            time_text(row.decode_s),
            time_text(row.split_s),
            ratio_text(row.speedup),
        )
        for row in study.rows
    ]
    crossings = [
        (
            str(each.blocks),
            f"{each.blocks / study.sm_count:.2f}",
            "never" if each.seqlen_k is None else str(each.seqlen_k),
        )
        for each in study.crossovers
    ]
    return "\n\n".join(
        (
            f"Decode on {study.gpu}: batch {problem.batch}, {problem.heads} heads "
            f"({problem.kv_heads} of keys and values), {problem.seqlen_q} queries, "
            f"head dimension {problem.head_dim}, {problem.dtype}\n{scenario_line(study.scenario)}",
            table(("keys", "splits", "decode", "split_kv", "speedup"), rows, left=0),
            table(
                ("batch x kv_heads", "a SM", "splitting is faster from"),
                crossings,
                left=0,
                title="Where splitting begins to pay, in keys",
            ),
        )
    )
