"""A validation report as text."""

from __future__ import annotations

from fasim.report.quantities import percent_text, signed_percent_text
from fasim.report.tables import table
from fasim.verbs.validate import Group, Validation
from fasim.verbs.versions import versions_said


def validation_text(validation: Validation) -> str:
    """Rows, groups, and what could not be predicted."""
    parts = []
    if validation.rows:
        parts += [_rows(validation), _groups(validation)]
        parts.append(
            f"pairs of one problem over 10 % apart: {validation.ordered} of {validation.pairs} "
            "predicted in the right order"
        )
        said = versions_said(row.measurement for row in validation.rows)
        parts += ["\n".join(said)] if said else []
    else:
        parts.append("no row could be predicted")
    if validation.unsupported:
        reasons: dict[str, list[str]] = {}
        for row in validation.unsupported:
            reasons.setdefault(row.reason, []).append(row.id)
        lines = [f"{len(ids)} rows unsupported: {reason}" for reason, ids in reasons.items()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _rows(validation: Validation) -> str:
    rows = []
    for row in validation.rows:
        measured = row.measurement
        problem = measured.problem
        shape = (
            f"{problem.batch} x {problem.heads} x {problem.seqlen_q} x {problem.seqlen_k} "
            f"d{problem.head_dim}{' causal' if problem.causal else ''}"
            f"{f' dropout {problem.dropout:g}' if problem.dropout else ''}"
        )
        rows.append(
            (
                measured.id,
                measured.gpu,
                measured.implementation,
                shape,
                f"{row.measured_ms:.4g}",
                f"{row.predicted_ms:.4g}",
                signed_percent_text(row.error),
            )
        )
    header = ("id", "gpu", "implementation", "problem", "measured ms", "predicted ms", "error")
    return table(header, rows, left=4)


def _groups(validation: Validation) -> str:
    groups = [*validation.groups]
    if validation.overall is not None:
        groups.append(validation.overall)
    header = (
        "gpu",
        "implementation",
        "direction",
        "n",
        "median |error|",
        "mean",
        "90th percentile",
        "bias",
        "slope",
    )
    return table(header, [_group(group) for group in groups], left=3)


def _group(group: Group) -> tuple[str, ...]:
    return (
        group.gpu,
        group.implementation,
        group.direction,
        str(group.n),
        percent_text(group.median),
        percent_text(group.mean),
        percent_text(group.p90),
        signed_percent_text(group.bias),
        "?" if group.slope is None else f"{group.slope:.3f}",
    )
