"""GPU profiles as text and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fasim.report.quantities import bytes_text, count_text
from fasim.report.tables import table
from fasim.verbs.profiles import ProfileCheck, ProfileRow, ProfileSheet


def list_text(rows: Sequence[ProfileRow]) -> str:
    header = ("name", "short for it", "title", "SMs", "fp16 tensor", "DRAM", "capacity")
    lines = []
    for row in rows:
        flops = row.fp16_tensor_flops_per_s
        lines.append(
            (
                row.name,
                ", ".join(row.short_names),
                row.title,
                str(row.sm_count),
                "-" if flops is None else f"{count_text(flops)}FLOP/s",
                f"{count_text(row.dram_bandwidth_bytes_per_s)}B/s",
                bytes_text(row.dram_capacity_bytes),
            )
        )
    return table(header, lines, left=3)


def list_dict(rows: Sequence[ProfileRow]) -> dict[str, Any]:
    return {"profiles": [asdict(row) for row in rows]}


def sheet_text(sheet: ProfileSheet) -> str:
    parts = [f"{sheet.name}: {sheet.title}"]
    if sheet.extends:
        parts[0] += f"\nextends {', '.join(sheet.extends)}"
    facts = [(f.path, f.text, f.kind or "-", f.source or "-") for f in sheet.fields]
    parts.append(
        "\n".join(f"{path:34} {text:>16}  {kind}: {source}" for path, text, kind, source in facts)
    )
    parts.append(
        "what follows\n"
        + "\n".join(f"{row.name:34} {row.text:>16}  {row.description}" for row in sheet.derived)
    )
    if sheet.changes is not None and sheet.changes.lines():
        parts.append("\n".join(sheet.changes.lines()))
    parts += ["\n".join(f"* {note}" for note in sheet.notes)] if sheet.notes else []
    return "\n\n".join(parts)


def sheet_dict(sheet: ProfileSheet) -> dict[str, Any]:
    document = asdict(sheet)
    document["changes"] = list(sheet.changes.lines()) if sheet.changes is not None else []
    return document


def check_text(checked: ProfileCheck) -> str:
    lines = [str(fault) for fault in checked.faults] or [f"{checked.file}: no fault"]
    return "\n".join([*lines, *(f"note: {note}" for note in checked.notes)])


def check_dict(checked: ProfileCheck) -> dict[str, Any]:
    return {
        "file": checked.file,
        "ok": checked.ok,
        "faults": [str(fault) for fault in checked.faults],
        "notes": list(checked.notes),
    }
