"""A validation report as text."""

from __future__ import annotations

from fasim.report.quantities import percent_text, signed_percent_text
from fasim.report.tables import table
from fasim.verbs.measured.versions import versions_said
from fasim.verbs.validation import UnsupportedRow, Validation, shape_text
from fasim.verbs.validation_statistics import Group, Pairs

GROUP_HEADER = (
    "gpu",
    "implementation",
    "direction",
    "n",
    "median |error|",
    "mean",
    "90th percentile",
    "bias",
    "slope",
    "pairs ordered",
    "over 10 %",
)
ROW_HEADER = ("id", "gpu", "implementation", "problem", "measured ms", "predicted ms", "error")
BYTES_HEADER = ("id", "gpu", "implementation", "problem", "measured GB", "predicted GB", "error")
LEGEND = (
    "error: predicted/measured − 1. slope: least squares, with an intercept, of predicted against "
    "measured time over\nrows whose longest kernel fills the GPU. pairs: rows of one problem run "
    "in two ways, predicted in the measured order;\nover 10 %: those that differ by more, measured."
)


def validation_text(validation: Validation) -> str:
    """Rows, groups, bytes, and what could not be predicted or read."""
    parts = []
    if validation.without:
        parts.append(f"without: {', '.join(validation.without)}")
    if validation.rows:
        parts += [table(ROW_HEADER, time_rows(validation), left=4)]
        parts += [table(GROUP_HEADER, group_rows(validation), left=3), LEGEND]
        parts.append("\n".join(versions_said(row.measurement for row in validation.rows)))
    if validation.bytes:
        parts += [table(BYTES_HEADER, byte_rows(validation), left=4), bytes_line(validation)]
    if not parts:
        parts.append("no row could be predicted")
    parts += [
        "\n".join(lines) for lines in (unsupported_lines(validation), left_out_lines(validation))
    ]
    return "\n\n".join(part for part in parts if part)


def time_rows(validation: Validation) -> list[tuple[str, ...]]:
    """The cells under `ROW_HEADER`."""
    return [
        (
            row.measurement.id,
            row.measurement.gpu,
            row.measurement.implementation,
            shape_text(row.measurement),
            f"{row.measured_ms:.4g}",
            f"{row.predicted_ms:.4g}",
            signed_percent_text(row.error),
        )
        for row in validation.rows
    ]


def byte_rows(validation: Validation) -> list[tuple[str, ...]]:
    """The cells under `BYTES_HEADER`."""
    return [
        (
            row.measurement.id,
            row.measurement.gpu,
            row.measurement.implementation,
            shape_text(row.measurement),
            f"{row.measured_gb:.4g}",
            f"{row.predicted_gb:.4g}",
            signed_percent_text(row.error),
        )
        for row in validation.bytes
    ]


def group_rows(validation: Validation) -> list[tuple[str, ...]]:
    """The cells under `GROUP_HEADER`, all rows together last."""
    groups = [*validation.groups]
    if validation.overall is not None:
        groups.append(validation.overall)
    return [_group(group) for group in groups]


def bytes_line(validation: Validation) -> str:
    """What the errors of DRAM bytes come to; empty without any."""
    overall = validation.overall_bytes
    if overall is None:
        return ""
    return (
        f"DRAM bytes against counters: {overall.n} rows, median |error| "
        f"{percent_text(overall.median)}, 90th percentile {percent_text(overall.p90)}, "
        f"bias {signed_percent_text(overall.bias)}"
    )


def unsupported_lines(validation: Validation) -> list[str]:
    """Rows without a prediction, by reason."""
    reasons: dict[str, list[UnsupportedRow]] = {}
    for row in validation.unsupported:
        reasons.setdefault(row.reason, []).append(row)
    return [f"{_rows(len(rows))} unsupported: {reason}" for reason, rows in reasons.items()]


def left_out_lines(validation: Validation) -> list[str]:
    """What of the file was not used, and what was wrong when it was measured."""
    lines = [
        f"{validation.path}:{line.line}: {line.reason}; the line is left out"
        for line in validation.unreadable
    ]
    if validation.operator_rows:
        lines.append(f"{_rows(validation.operator_rows)} measure no attention; left out")
    if validation.wrong_outputs:
        lines.append(
            f"WRONG: the kernel's output was wrong in {_rows(len(validation.wrong_outputs))}: "
            f"{', '.join(validation.wrong_outputs)}"
        )
    return lines


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
        "-" if group.slope is None else f"{group.slope:.3f}",
        _pairs(group.pairs),
        _pairs(group.clear_pairs),
    )


def _pairs(pairs: Pairs) -> str:
    return f"{pairs.ordered} of {pairs.compared}" if pairs.compared else "-"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
