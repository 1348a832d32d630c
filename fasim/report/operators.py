"""Operators as text: a prediction, a validation."""

from __future__ import annotations

from fasim.operators import Operator
from fasim.report.predictions import details, intensity_line, notes, scenario_line
from fasim.report.quantities import bytes_text, percent_text, signed_percent_text, time_text
from fasim.report.tables import table
from fasim.verbs.predict_op import OperatorPrediction
from fasim.verbs.validate_operators import OperatorGroup, OperatorValidation


def operator_line(operator: Operator) -> str:
    """The operator in a line."""
    sizes = ", ".join(f"{name} {size}" for name, size in operator.sizes.items())
    return f"{operator.name}: {sizes}, {operator.dtype}"


def operator_text(found: OperatorPrediction) -> str:
    """One prediction: time and what bounds it, intensity, bytes, kernels."""
    prediction = found.prediction
    parts = [
        f"{found.operator.name} on {prediction.gpu} ({prediction.gpu_title})",
        f"{operator_line(found.operator)}\n"
        f"{prediction.implementation}, tile {prediction.tile_name}; "
        f"{scenario_line(prediction.scenario)}",
        f"{_summary(found)}\n{intensity_line(prediction.intensity)}",
        *details(prediction),
        *notes(prediction.changes, prediction.assumptions),
    ]
    return "\n\n".join(parts)


def _summary(found: OperatorPrediction) -> str:
    prediction = found.prediction
    if found.time_s is None or found.bytes_per_s is None:
        return (
            f"does not fit: {bytes_text(prediction.footprint.peak_bytes)} of device memory, "
            f"{prediction.gpu} has {bytes_text(prediction.capacity_bytes)}"
        )
    rate = "" if found.tflops_per_s is None else f"{found.tflops_per_s:.4g} TFLOP/s   "
    return (
        f"time {time_text(found.time_s)}   bound by {prediction.bound}   {rate}"
        f"{found.bytes_per_s / 1e9:.4g} GB/s   roofline {time_text(prediction.roofline_s)}"
    )


def operator_validation_text(validation: OperatorValidation) -> str:
    """Rows, groups, and what could not be predicted."""
    parts = []
    if validation.rows:
        parts += [_rows(validation), _groups((*validation.groups, *validation.by_kind))]
    else:
        parts.append("no row could be predicted")
    reasons: dict[str, list[str]] = {}
    for row in validation.unsupported:
        reasons.setdefault(row.reason, []).append(row.id)
    lines = [
        f"{len(ids)} rows unsupported ({', '.join(ids)}): {reason}"
        for reason, ids in reasons.items()
    ]
    lines += [
        f"line {line.line}: {line.reason}; the line is left out" for line in validation.unreadable
    ]
    return "\n\n".join([*parts, *(["\n".join(lines)] if lines else [])])


def _rows(validation: OperatorValidation) -> str:
    header = ("id", "gpu", "operator", "measured ms", "predicted ms", "of it host", "error")
    rows = [
        (
            row.measurement.id,
            row.measurement.gpu,
            operator_line(row.operator),
            f"{row.measured_ms:.4g}",
            f"{row.predicted_ms:.4g}",
            f"{row.host_ms:.3g}" if row.host_ms else "-",
            signed_percent_text(row.error),
        )
        for row in validation.rows
    ]
    return table(header, rows, left=3)


def _groups(groups: tuple[OperatorGroup, ...]) -> str:
    header = ("gpu", "kind", "n", "median |error|", "90th percentile", "bias")
    rows = [
        (
            group.gpu,
            group.kind,
            str(group.n),
            percent_text(group.median_error),
            percent_text(group.p90_error),
            signed_percent_text(group.bias),
        )
        for group in groups
    ]
    return table(header, rows, left=2)
