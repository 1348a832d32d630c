"""What there is: schedules and implementations."""

from __future__ import annotations

from fasim.cli.application import app
from fasim.cli.options import JsonOption
from fasim.cli.printing import print_result


@app.command()
def schedules(as_json: JsonOption = False) -> None:
    """The schedules, and what each needs."""
    _catalog("schedule", as_json)


@app.command()
def implementations(as_json: JsonOption = False) -> None:
    """The implementations: named kernel families, their schedule, and what each needs."""
    _catalog("implementation", as_json)


def _catalog(kind: str, as_json: bool) -> None:
    from fasim.report.catalog import entries_dict, entries_text
    from fasim.schedules.catalog import IMPLEMENTATIONS, NAMED_SCHEDULES

    entries = NAMED_SCHEDULES if kind == "schedule" else IMPLEMENTATIONS
    print_result(lambda: entries_dict(kind, entries), lambda: entries_text(kind, entries), as_json)
