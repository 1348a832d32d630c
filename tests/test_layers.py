"""The house: imports run one way, and light rooms stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fasim

ROOT = Path(fasim.__file__).parent

# A room may import the rooms before it; the last line sees everything.
MAY_IMPORT = {
    "problem": set(),
    "operators": {"problem"},
    "hardware": {"problem"},
    "schedules": {"problem", "operators", "hardware"},
    "readings": {"problem", "hardware", "schedules"},
    "simulator": {"problem", "hardware", "schedules", "readings"},
    "verbs": {"problem", "operators", "hardware", "schedules", "readings", "simulator"},
    "report": {"problem", "operators", "hardware", "schedules", "readings", "simulator", "verbs"},
}


def imported(file: Path) -> Iterator[str]:
    """Rooms of fasim that a file imports, type checking included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "fasim" and len(parts) > 1:
                yield parts[1]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_run_one_way(room: str) -> None:
    file = ROOT / f"{room}.py"
    files = [file] if file.is_file() else sorted((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        wrong = set(imported(file)) - MAY_IMPORT[room] - {room}
        assert not wrong, f"{file.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after a statement."""
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_fasim_loads_next_to_nothing() -> None:
    assert not {"torch", "triton", "numpy", "pydantic", "typer"} & loaded_by("import fasim")


def test_schedules_need_the_standard_library_alone() -> None:
    loaded = loaded_by("import fasim.schedules.catalog")
    assert not {"numpy", "simpy", "pydantic", "yaml", "typer", "torch"} & loaded


def test_predicting_loads_neither_torch_nor_numpy() -> None:
    loaded = loaded_by(
        "import fasim\n"
        "problem = fasim.Attention(1, 2, 128, 128, 64)\n"
        "fasim.predict(problem, fasim.load('a100'), schedule='flash2')"
    )
    assert not {"torch", "triton"} & loaded


def test_help_loads_no_simulator() -> None:
    loaded = loaded_by(
        "import contextlib, io, typer\n"
        "from fasim.cli import app\n"
        "def helps(command):\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as said:\n"
        "        command(['--help'], prog_name='fasim', standalone_mode=False)\n"
        "    assert 'Usage: fasim' in said.getvalue()\n"
        "    for each in getattr(command, 'commands', {}).values():\n"
        "        helps(each)\n"
        "helps(typer.main.get_command(app))"
    )
    rooms = {name.split(".")[1] for name in loaded if name.startswith("fasim.")}
    assert rooms <= {"cli", "problem"}
    assert not {"numpy", "simpy", "yaml", "rich"} & loaded


def test_public_names() -> None:
    assert set(dir(fasim)) == set(fasim.__all__)
    for name in fasim.__all__:
        assert getattr(fasim, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = fasim.nothing
