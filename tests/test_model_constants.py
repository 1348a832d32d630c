"""No number hides in the timing model: each is in docs/model.md, or here with a reason."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fasim.simulator.mechanisms import MECHANISMS
from tests.documents import ROOT

MODEL = (ROOT / "docs" / "model.md").read_text(encoding="utf-8")
SOURCES = (
    *sorted((ROOT / "fasim" / "simulator").rglob("*.py")),
    ROOT / "fasim" / "schedules" / "residency.py",
)
CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]*")

# Numbers that no prediction depends on.
REASONS = {
    "TICKS_PER_SECOND": "a tick is a picosecond: fine enough that rounding is not seen",
    "TICKS_PER_MICROSECOND": "the trace viewer's unit",
    "TRIP_UNITS": "trips in 1/1024: fine enough that rounding is not seen",
    "BOUNDLESS": "what stands for no limit where a mechanism is switched off",
    "NEVER": "later than any tick",
    "_NEVER": "later than any cycle",
    "REMEMBERED": "events that settle an order exactly; a run compares it with all events",
}


def constants(source: Path) -> Iterator[str]:
    """Names in capitals that a module gives a number, or several, at its top level."""
    for statement in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign):
            targets, value = statement.targets, statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets, value = [statement.target], statement.value
        else:
            continue
        names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
        if is_number(value):
            yield from (name for name in names if CONSTANT.fullmatch(name))


def is_number(value: ast.expr) -> bool:
    """Whether an expression is made of numbers, and of other constants."""
    if isinstance(value, ast.Constant):
        return isinstance(value.value, int | float) and not isinstance(value.value, bool)
    if isinstance(value, ast.Name):
        return CONSTANT.fullmatch(value.id) is not None
    if isinstance(value, ast.BinOp):
        return is_number(value.left) and is_number(value.right)
    if isinstance(value, ast.UnaryOp):
        return is_number(value.operand)
    if isinstance(value, ast.Tuple):
        return all(is_number(each) for each in value.elts)
    if isinstance(value, ast.Call):
        return isinstance(value.func, ast.Name) and value.func.id == "Fraction"
    return False


FOUND = [
    pytest.param(name, id=f"{source.stem}.{name}")
    for source in SOURCES
    for name in constants(source)
]


@pytest.mark.parametrize("name", FOUND)
def test_a_constant_of_the_model_has_its_source_in_the_document(name: str) -> None:
    assert f"`{name}`" in MODEL or name in REASONS


def test_the_reasons_are_of_constants_that_there_are() -> None:
    assert set(REASONS) <= {param.values[0] for param in FOUND}


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_mechanism_has_its_place_in_the_document(name: str) -> None:
    assert f"`{name}`" in MODEL


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("WAIT_CYCLES = 60", ["WAIT_CYCLES"]),
        ("A, B = 0.93, 0.15", ["A", "B"]),
        ("ROWS = COLUMNS = 8", ["ROWS", "COLUMNS"]),
        ("_SHARE: Fraction = Fraction(1, 20)", ["_SHARE"]),
        ("LOADS = (ROWS + 8) * -4 / 16", ["LOADS"]),
        ("PIPES = ('tensor', 'sfu')", []),
        ("ON = True", []),
        ("NONE = Transfer(-1, 0)", []),
        ("def f():\n    LOCAL = 3", []),
    ],
)
def test_what_counts_as_a_constant(tmp_path: Path, code: str, names: list[str]) -> None:
    module = tmp_path / "module.py"
    module.write_text(code, encoding="utf-8")
    assert list(constants(module)) == names
