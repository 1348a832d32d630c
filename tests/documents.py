"""The examples in the documents: every `$ fasim …` with what it prints, every Python block.

`python -m tests.documents` writes the outputs anew, `python -m tests.documents predict` those of
commands in which a word stands; the tests only compare.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fasim.cli import main

ROOT = Path(__file__).parent.parent
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
CONSOLE = re.compile(r"```console\n\$ (?P<command>.*)\n(?P<output>(?:.*\n)*?)```\n")
PYTHON = re.compile(r"```python\n(?P<code>(?:.*\n)*?)```\n")


@dataclass(frozen=True)
class Example:
    """A command in a document and the output written below it."""

    document: Path
    command: str
    output: str

    def __str__(self) -> str:
        return f"{self.document.name}: {self.command}"


def examples() -> Iterator[Example]:
    for document in DOCUMENTS:
        for found in CONSOLE.finditer(document.read_text(encoding="utf-8")):
            yield Example(document, found["command"], found["output"])


def python_blocks(document: Path) -> list[str]:
    return [found["code"] for found in PYTHON.finditer(document.read_text(encoding="utf-8"))]


def run(command: str) -> tuple[int, str]:
    """Exit status and stdout of a `fasim …` command, run in this process."""
    words = shlex.split(command)
    assert words[0] == "fasim"
    printed = io.StringIO()
    before, sys.argv = sys.argv, words
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            main()
        status = 0
    except SystemExit as leaving:
        status = int(leaving.code or 0)
    finally:
        sys.argv = before
    return status, printed.getvalue()


def rewrite(document: Path, words: tuple[str, ...] = ()) -> None:
    """Puts what each command prints today below it; of those with one of `words`, if given."""

    def anew(found: re.Match[str]) -> str:
        if words and not any(word in found["command"].split() for word in words):
            return found[0]
        _, output = run(found["command"])
        return f"```console\n$ {found['command']}\n{output}```\n"

    text = document.read_text(encoding="utf-8")
    document.write_text(CONSOLE.sub(anew, text), encoding="utf-8")


if __name__ == "__main__":
    for each in DOCUMENTS:
        rewrite(each, tuple(sys.argv[1:]))
