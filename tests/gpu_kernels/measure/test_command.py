"""The command: help with examples, one line for what is missing, exit status 2."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from gpu_kernels.measure import __main__ as command


def test_help_has_examples_and_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command.main(["--help"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    assert "--suite quick --out h200.csv" in printed
    assert "exit status: 0 done" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "huge", "--out", "x.csv"], "invalid choice: 'huge'"),
        (["--suite", "quick"], "the following arguments are required: --out"),
    ],
)
def test_bad_input_is_a_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        command.main(arguments)
    assert left.value.code == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_without_torch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    out = tmp_path / "run.csv"
    assert command.main(["--out", str(out)]) == 2
    assert capsys.readouterr().err.endswith(
        "torch and triton not installed; pip install 'fasim[gpu]'\n"
    )
    assert not out.exists()


def test_without_a_gpu(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    out = tmp_path / "run.csv"
    module = [sys.executable, "-m", "gpu_kernels.measure", "--out", str(out)]
    done = subprocess.run(module, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no GPU: torch sees none" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not out.exists()


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose torch says that there is one."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.usefixtures("a_gpu")
def test_a_file_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--out", str(tmp_path / "nowhere" / "run.csv")]) == 2
    printed = capsys.readouterr().err
    assert "run.csv: cannot be written: No such file or directory" in printed
    assert printed.count("\n") == 1


@pytest.mark.usefixtures("a_gpu")
def test_an_interrupt_keeps_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(suite: str, file: command.RowFile) -> int:
        file.add({"id": suite})
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "measure", measure)
    out = tmp_path / "run.csv"
    assert command.main(["--out", str(out)]) == 130
    assert "run again to go on" in capsys.readouterr().err
    assert out.read_text(encoding="utf-8").splitlines()[1].startswith("quick,")


def test_the_command_alone_loads_no_torch() -> None:
    assert importlib.util.find_spec("gpu_kernels.measure.__main__") is not None
    code = "import sys, gpu_kernels.measure.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "triton"} & set(done.stdout.split())
