"""The catalogue of schedules or implementations as text and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fasim.report.tables import table
from fasim.schedules.plan import Entry


def entries_text(kind: str, entries: Mapping[str, Entry]) -> str:
    rows = [(e.name, e.schedule, e.title, e.needs) for e in entries.values()]
    if kind == "schedule":
        return table((kind, "what it is", "needs"), [(r[0], *r[2:]) for r in rows], left=3)
    return table((kind, "schedule", "what it is", "needs"), rows, left=4)


def entries_dict(kind: str, entries: Mapping[str, Entry]) -> dict[str, Any]:
    return {
        f"{kind}s": [
            {
                "name": entry.name,
                "schedule": entry.schedule,
                "title": entry.title,
                "needs": entry.needs,
                "source": entry.source,
            }
            for entry in entries.values()
        ]
    }
