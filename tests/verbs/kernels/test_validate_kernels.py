"""Interpreted kernels against `traffic`: they agree, and a wrong kernel is caught."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from fasim.verbs.kernels import validate_kernels
from fasim.verbs.kernels.validate_kernels import KernelChecks, KernelsUnavailable, check_kernels

KERNELS = Path(__file__).parents[3] / "gpu_kernels"
DEVICE_FACTS = ["copy", "exp2_rate", "read", "write"]
SWEEPS = ["add_sweep", "read_sweep", "write_sweep"]


@pytest.fixture(scope="module")
def quick() -> KernelChecks:
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    return check_kernels("quick")


def test_outputs_are_right_and_bytes_as_predicted(quick: KernelChecks) -> None:
    assert [fault for kernel in quick.kernels for fault in kernel.mismatches] == []
    assert quick.agree
    assert 0 < max(kernel.worst_output for kernel in quick.kernels) <= 1


def test_every_kernel_is_among_them(quick: KernelChecks) -> None:
    names = {kernel.kernel for kernel in quick.kernels}
    assert {"flash2_forward", "preprocess", "key_value_pass", "query_pass"} <= names
    assert {"sum_dK", "sum_dV", "decode", "split_kv", "combine"} <= names
    assert {"query_key", "softmax", "dropout", "probability_value"} <= names
    assert {"value_gradient", "probability_gradient", "dropout_gradient"} <= names
    assert {"softmax_gradient", "query_gradient", "key_gradient"} <= names
    assert {"softmax_naive", "softmax_safe", "softmax_online", *DEVICE_FACTS, *SWEEPS} <= names
    architectures = {kernel.arch for kernel in quick.kernels if kernel.kernel == "flash2_forward"}
    assert architectures == {"sm_80", "sm_89", "sm_90", "sm_100"}


def test_the_report_is_json(quick: KernelChecks) -> None:
    told = json.loads(json.dumps(quick.to_dict(), allow_nan=False))
    assert told["agree"]
    assert {"torch", "triton"} == set(told["versions"])
    assert {"kernel", "arch", "cases", "mismatches"} <= set(told["kernels"][0])


@pytest.mark.slow
def test_two_hundred_random_shapes() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    checks = check_kernels("full")
    assert [fault for kernel in checks.kernels for fault in kernel.mismatches] == []
    assert checks.cases >= 200


def copied(tmp_path: Path, file: str, *changes: tuple[str, str]) -> Path:
    """A folder with the kernels, one file of them changed."""
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    shutil.copytree(KERNELS, tmp_path / "gpu_kernels", ignore=shutil.ignore_patterns("*.csv"))
    changed = tmp_path / "gpu_kernels" / file
    text = changed.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    changed.write_text(text, encoding="utf-8")
    return tmp_path


EXTRA_LOAD = (
    "        s = tl.dot(q, k)\n",
    "        k += 0 * tl.load(k_ptrs, mask=(start + cols < seqlen_k)[None, :], other=0.0)\n"
    "        s = tl.dot(q, k)\n",
)
MASK_OFF_BY_ONE = ("start + cols[None, :] <= limits", "start + cols[None, :] < limits")
HALF_THE_ROWS = (
    "    pick = pick or tiles.forward(tiles.architecture(q), problem.head_dim)\n",
    "    pick = pick or tiles.forward(tiles.architecture(q), problem.head_dim)\n"
    "    pick = Pick(pick.tile_m // 2, pick.tile_n, pick.warps, pick.stages)\n",
)
HALF_THE_KEYS = (
    HALF_THE_ROWS[0],
    HALF_THE_ROWS[1].replace("pick.tile_m // 2, pick.tile_n", "pick.tile_m, pick.tile_n // 2"),
)
NOTE = ("read Q K V ; write O LSE", "read Q K ; write O LSE")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (EXTRA_LOAD, "K read"),
        (MASK_OFF_BY_ONE, "O errs"),
        (HALF_THE_ROWS, "K read"),
        (HALF_THE_KEYS, "K read"),
        (NOTE, "V is read, against the kernel's note"),
    ],
    ids=["extra load of K", "mask off by one", "half the rows", "half the keys", "wrong note"],
)
def test_a_wrong_forward_is_caught(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    source = copied(tmp_path, "forward.py", change)
    checks = check_kernels("quick", only=["forward"], source=source)
    assert not checks.agree
    faults = [fault for kernel in checks.kernels for fault in kernel.mismatches]
    assert any(said in fault for fault in faults)
    assert {kernel.kernel for kernel in checks.kernels} == {"flash2_forward"}


def test_a_working_set_moves_once(tmp_path: Path) -> None:
    change = ("    tl.store(Y + at, tl.load(X", "    tl.load(X)\n    tl.store(Y + at, tl.load(X")
    source = copied(tmp_path, "bandwidth.py", change)
    checks = check_kernels("quick", only=["copy"], source=source)
    assert [kernel.kernel for kernel in checks.kernels] == ["copy"]
    (fault,) = checks.kernels[0].mismatches
    assert fault == "9000 elements: X read: 36012 B counted, 36000 B in it"


def test_a_kernel_that_does_not_run_is_one_line(tmp_path: Path) -> None:
    source = copied(tmp_path, "forward.py", ("def forward_kernel(", "def forward_kernel(("))
    with pytest.raises(KernelsUnavailable, match="the kernels did not run: SyntaxError") as said:
        check_kernels("quick", source=source)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("missing", ["torch", "triton"])
def test_without_torch_or_triton_it_says_so(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    find: Callable[[str], object] = lambda name: None if name == missing else object()  # noqa: E731
    monkeypatch.setattr(validate_kernels, "find_spec", find)
    with pytest.raises(KernelsUnavailable, match=f"{missing} is not installed; pip install"):
        check_kernels()


# What a process of kernels might say, without one.


def launch(kernel: str, **tensors: tuple[int, int]) -> dict[str, object]:
    accesses = {
        name: {"read": read, "write": write, "reduce": 0, "may_read": True, "may_write": True}
        for name, (read, write) in tensors.items()
    }
    return {"kernel": kernel, "tensors": accesses}


def case(*launches: dict[str, object], error: float = 0.0) -> dict[str, object]:
    problem = {"batch": 1, "heads": 1, "seqlen_q": 4, "seqlen_k": 8, "head_dim": 16, "kv_heads": 1}
    problem |= {"dtype": "fp16", "causal": False, "direction": "forward", "window": None}
    return {
        "kernel": "softmax-naive",
        "arch": "sm_80",
        "problem": problem,
        "tile": None,
        "num_splits": 1,
        "launches": list(launches),
        "outputs": {"P": {"error": error, "tolerance": 0.5}},
    }


def faults_of(monkeypatch: pytest.MonkeyPatch, *cases: dict[str, object]) -> list[str]:
    said = {"cases": list(cases), "versions": {}}
    monkeypatch.setattr(validate_kernels, "find_spec", lambda _: object())
    done = SimpleNamespace(stdout=json.dumps(said), stderr="")
    monkeypatch.setattr(validate_kernels.subprocess, "run", lambda *_, **__: done)
    return [fault for kernel in check_kernels().kernels for fault in kernel.mismatches]


SAID = "fp16, batch 1, 1/1 heads, 4x8, head_dim 16, table's tile: "


def test_bytes_are_compared_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    right = launch("softmax_naive", S=(128, 0), P=(0, 64))
    assert faults_of(monkeypatch, case(right)) == []
    wrong = launch("softmax_naive", S=(128, 0), P=(0, 60), X=(1, 0))
    assert faults_of(monkeypatch, case(wrong)) == [
        SAID + "P write: 60 B counted, 64 B predicted",
        SAID + "X is no tensor of the plan",
    ]
    assert faults_of(monkeypatch, case(launch("softmax_naive", S=(128, 0)))) == [
        SAID + "P is no tensor of the launch"
    ]


def test_launches_are_those_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    right = launch("softmax_naive", S=(128, 0), P=(0, 64))
    assert faults_of(monkeypatch, case()) == [SAID + "planned, and not launched"]
    assert faults_of(monkeypatch, case(right, right)) == [
        SAID + "the plan has no such kernel, or has it once"
    ]


def test_what_runs_can_be_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    right = launch("softmax_naive", S=(128, 0), P=(0, 64))
    (fault,) = faults_of(monkeypatch, {**case(right), "tile": [2, 64]})
    assert "it runs, and cannot be planned: tile 2x64: tile_m is 2" in fault


@pytest.mark.parametrize("error", [0.6, float("nan")])
def test_a_wrong_output_is_a_mismatch(monkeypatch: pytest.MonkeyPatch, error: float) -> None:
    right = launch("softmax_naive", S=(128, 0), P=(0, 64))
    (fault,) = faults_of(monkeypatch, case(right, error=error))
    assert fault.startswith(SAID + "P errs")
