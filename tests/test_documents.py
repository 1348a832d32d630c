"""The documents keep their promises: commands print what stands below them, examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fasim.verbs.profiles import check_profile
from tests.documents import DOCUMENTS, ROOT, Example, examples, python_blocks, run

README_COMMAND = re.compile(r"fasim compare .*")


@pytest.mark.parametrize("example", list(examples()), ids=str)
def test_a_command_prints_what_the_document_shows(example: Example) -> None:
    status, printed = run(example.command)
    assert status == 0
    assert printed == example.output, "run `python -m tests.documents` if the change is meant"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_examples_run(document: Path) -> None:
    for code in python_blocks(document):
        exec(compile(code, str(document), "exec"), {"__name__": "example"})


def test_the_main_job_is_the_command_whose_output_is_shown() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)\n```", readme, re.DOTALL)
    assert len(blocks) == 2
    assert README_COMMAND.search(blocks[0]) is not None
    shown = [e.command for e in examples() if e.document.name == "README.md"]
    assert README_COMMAND.search(blocks[0])[0] == shown[0]  # type: ignore[index]
    assert "torch==2.13.0" in blocks[1]
    assert "pytest" in blocks[1]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_yaml_examples_are_profiles(document: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n# (\S+)\n(.*?)```", document.read_text("utf-8"), re.DOTALL)
    for name, text in blocks:
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        assert check_profile(file).faults == ()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target
