"""What nvidia-smi says of a GPU, and what it does not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gpu_kernels.measure.environment import ask_smi, run


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        ("580.1, Enabled, Disabled\n", ("580.1", "Enabled", "Disabled")),
        ("580.1, [N/A], [N/A]\n", ("580.1", "", "")),
        ("", ("", "", "")),
        ("No devices were found\n", ("", "", "")),
    ],
)
def test_answers(printed: str, found: tuple[str, ...]) -> None:
    asked: list[Sequence[str]] = []

    def ask(command: Sequence[str]) -> str:
        asked.append(command)
        return printed

    assert ask_smi("GPU-1", ask) == found
    assert asked[0][-2:] == ["-i", "GPU-1"]


def test_a_tool_that_is_not_there_says_nothing() -> None:
    assert run(["no-such-program-anywhere"]) == ""
    assert run(["false"]) == ""
    assert run(["echo", "yes"]) == "yes\n"
