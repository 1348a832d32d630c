"""No prediction moves by more than 0.5 % without its golden file."""

import json

import pytest

from tests.drift import GOLDEN, TOLERANCE, predicted


def test_predictions_are_those_of_the_golden_file():
    golden, now = json.loads(GOLDEN.read_text(encoding="utf-8")), predicted()
    assert list(now) == list(golden), "cases differ; write them anew: python -m tests.drift"
    moved = [
        f"{name}: {key} {golden[name][key]:g} → {value:g}"
        for name, values in now.items()
        for key, value in values.items()
        if value != pytest.approx(golden[name][key], rel=TOLERANCE)
    ]
    assert not moved, "python -m tests.drift writes them anew:\n" + "\n".join(moved)
