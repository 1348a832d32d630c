"""Writes `fasim/verbs/trust.json` anew: the errors of `fasim validate` over the published rows.

`python -m tests.trust`, after every change that moves a prediction.
"""

from __future__ import annotations

import json
from typing import Any

from fasim.hardware import load
from fasim.verbs.measured.measurements import published
from fasim.verbs.trust import SUMMARY, summarise
from fasim.verbs.validate import validate


def summary() -> list[dict[str, Any]]:
    rows = validate(published(), processes=2).rows
    names = {row.measurement.gpu for row in rows}
    return summarise(rows, {name: load(name).gpu.architecture for name in names})


if __name__ == "__main__":
    SUMMARY.write_text(json.dumps(summary(), indent=1) + "\n", encoding="utf-8")
