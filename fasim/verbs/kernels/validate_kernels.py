"""`fasim validate --kernels`: interpreted kernels against the traffic reading, byte by byte.

The kernels run in a process of their own, with TRITON_INTERPRET=1: the one place that sees both
them and the schedules they mirror. Nothing here loads torch or triton.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import fasim
from fasim.hardware import load
from fasim.problem import Attention, ProblemError
from fasim.readings.traffic import Level, traffic
from fasim.schedules import catalog
from fasim.schedules.plan import Options, Plan, Refused

# A GPU of each architecture: tiles are the architecture's, and no byte depends on more.
GPUS = {"sm_80": "a100", "sm_89": "rtx4090", "sm_90": "h100", "sm_100": "b200"}
TIMEOUT_S = 1800
# Chains of cases, and the implementation that plans each; others mirror the schedule of their name.
MIRRORED = {
    "forward": "gpu-kernels",
    "backward": "gpu-kernels",
    "standard": "gpu-kernels-standard",
    "decode": "gpu-kernels-decode",
    "split_kv": "gpu-kernels-split-kv",
}

Cases = Literal["quick", "full"]


class KernelsUnavailable(Exception):
    """Kernels that cannot be interpreted here, and why, in one line."""


@dataclass(frozen=True)
class CheckedKernel:
    """One kernel on one architecture: what was run, and what did not agree.

    Attributes:
        cases: launches.
        worst_output: the largest error of an output of its cases over what it may be.
        mismatches: sentences: a byte count that differs, an output that is wrong.
    """

    kernel: str
    arch: str
    cases: int
    worst_output: float
    mismatches: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "kernel": self.kernel,
            "arch": self.arch,
            "cases": self.cases,
            "worst_output": self.worst_output,
            "mismatches": list(self.mismatches),
        }


@dataclass(frozen=True)
class KernelChecks:
    """Every kernel, and the versions of torch and triton that ran it."""

    kernels: tuple[CheckedKernel, ...]
    cases: int
    versions: dict[str, str]

    @property
    def agree(self) -> bool:
        """Whether every output is right and every byte as predicted."""
        return not any(kernel.mismatches for kernel in self.kernels)

    def to_dict(self) -> dict[str, Any]:
        return {
            "agree": self.agree,
            "cases": self.cases,
            "versions": self.versions,
            "kernels": [kernel.to_dict() for kernel in self.kernels],
        }


def check_kernels(
    cases: Cases = "quick", *, only: Sequence[str] = (), source: Path | None = None
) -> KernelChecks:
    """Interprets kernels on a CPU; compares outputs with references, bytes with `traffic`.

    Args:
        cases: `quick` takes seconds; `full`, over 200 random shapes, minutes.
        only: kernels to run, by the names of the cases, instead of all.
        source: a folder with another `gpu_kernels` to check instead of the installed one.

    Raises:
        KernelsUnavailable: torch or triton is not installed, or the kernels do not run.
    """
    found = interpreted(cases, only=only, source=source)
    rows: dict[tuple[str, str], list[tuple[float, list[str]]]] = {}
    for case in found["cases"]:
        outputs = {name: Output(**output) for name, output in case["outputs"].items()}
        wrong = [
            f"{name} errs {output.error:.3g}, allowed {output.tolerance:.3g}"
            for name, output in outputs.items()
            if not output.right
        ]
        worst = max((output.ratio for output in outputs.values()), default=0.0)
        said = _said(case)
        for name, faults in _compared(case):
            row = rows.setdefault((name, case["arch"]), [])
            row.append((worst, [f"{said}: {fault}" for fault in (*faults, *wrong)]))
    return KernelChecks(
        tuple(
            CheckedKernel(
                kernel,
                arch,
                len(row),
                max(worst for worst, _ in row),
                tuple(fault for _, faults in row for fault in faults),
            )
            for (kernel, arch), row in sorted(rows.items())
        ),
        len(found["cases"]),
        found["versions"],
    )


@dataclass(frozen=True)
class Output:
    """The largest error of an output, and what the tolerance rule allows it."""

    error: float
    tolerance: float

    @property
    def right(self) -> bool:
        return self.error <= self.tolerance  # False for a NaN

    @property
    def ratio(self) -> float:
        """1 is just right; 0 where there is no error at all."""
        if self.error == 0:
            return 0.0
        return self.error / self.tolerance if self.tolerance else float("inf")


def interpreted(
    cases: Cases, *, only: Sequence[str] = (), source: Path | None = None
) -> dict[str, Any]:
    """What `python -m gpu_kernels.interpret --json` says of these cases.

    Raises:
        KernelsUnavailable: torch or triton is not installed, or the kernels do not run.
    """
    for package in ("torch", "triton"):
        if find_spec(package) is None:
            raise KernelsUnavailable(f"{package} is not installed; pip install 'fasim[gpu]'")
    root = str(Path(fasim.__file__).parent.parent)
    path = [str(source)] if source is not None else []
    path += [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-P", "-m", "gpu_kernels.interpret", "--json", "--cases", cases]
    for kernel in only:
        command += ["--only", kernel]
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join(path),
        "CUDA_VISIBLE_DEVICES": "",
    }
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise KernelsUnavailable(f"no end of the kernels after {TIMEOUT_S} s") from None
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        said = done.stderr.strip().splitlines() or ["no output"]
        raise KernelsUnavailable(f"the kernels did not run: {said[-1]}") from None
    return found


def _compared(case: dict[str, Any]) -> Iterable[tuple[str, list[str]]]:
    """Each launch of a case by name, and in what it is not what was planned."""
    launches: list[dict[str, Any]] = case["launches"]
    if case["problem"] is None:
        for launch in launches:
            yield launch["kernel"], _once_each(launch)
        return
    try:
        planned = traffic(_plan(case).kernels).kernels
    except (Refused, ProblemError) as reason:
        for launch in launches:
            yield launch["kernel"], [f"it runs, and cannot be planned: {reason}"]
        return
    predicted = {kernel.kernel: kernel.global_ for kernel in planned}
    for launch in launches:
        name = launch["kernel"]
        level = predicted.pop(name, None)
        if level is None:
            yield name, ["the plan has no such kernel, or has it once"]
        else:
            yield name, [*_bytes(launch, level), *_note(launch)]
    for name in predicted:
        yield name, ["planned, and not launched"]


def _plan(case: dict[str, Any]) -> Plan:
    """The chain that a case mirrors, on a GPU of its architecture, with its tile."""
    fields = case["problem"]
    window = fields["window"]
    problem = Attention(**{**fields, "window": None if window is None else tuple(window)})
    tile = None if case["tile"] is None else (case["tile"][0], case["tile"][1])
    gpu = load(GPUS[case["arch"]]).gpu
    kernel = case["kernel"]
    options = Options(tile=tile)
    if kernel == "decode" and case["num_splits"] > 1:
        kernel, options = "split_kv", replace(options, num_splits=case["num_splits"])
    if kernel in MIRRORED:
        return catalog.plan(problem, gpu, implementation=MIRRORED[kernel], options=options)
    return catalog.plan(problem, gpu, kernel, options=options)


def _bytes(launch: dict[str, Any], level: Level) -> Iterable[str]:
    """Where counted and predicted bytes differ."""
    tensors = launch["tensors"]
    for name in sorted({*tensors, *level}):
        counted, expected = tensors.get(name), level.get(name)
        if expected is None or counted is None:
            where = "the launch" if counted is None else "the plan"
            yield f"{name} is no tensor of {where}"
            continue
        for direction in ("read", "write", "reduce"):
            bytes_ = int(getattr(expected, f"{direction}_bytes"))
            if counted[direction] != bytes_:
                yield f"{name} {direction}: {counted[direction]} B counted, {bytes_} B predicted"


def _note(launch: dict[str, Any]) -> Iterable[str]:
    """Where a kernel does what its `read … ; write …` note does not say."""
    for name, access in launch["tensors"].items():
        if access["read"] and not access["may_read"]:
            yield f"{name} is read, against the kernel's note"
        if (access["write"] or access["reduce"]) and not access["may_write"]:
            yield f"{name} is written, against the kernel's note"


def _once_each(launch: dict[str, Any]) -> list[str]:
    """A device fact's kernel moves every byte of a working set once; adding to one writes it."""
    faults = []
    for name, access in launch["tensors"].items():
        access = {**access, "write": access["write"] + access["reduce"]}
        for direction, due in (("read", access["may_read"]), ("write", access["may_write"])):
            expected = access["size_bytes"] if due else 0
            if access[direction] != expected:
                faults.append(
                    f"{name} {direction}: {access[direction]} B counted, {expected} B in it"
                )
    return faults


def _said(case: dict[str, Any]) -> str:
    """A case in a line."""
    problem = case["problem"]
    if problem is None:
        return f"{case['elements']} elements"
    tile = "table's tile" if case["tile"] is None else "tile {}x{}".format(*case["tile"])
    heads = f"{problem['heads']}/{problem['kv_heads']} heads"
    lengths = f"{problem['seqlen_q']}x{problem['seqlen_k']}"
    causal = ", causal" if problem["causal"] else ""
    head = f"{problem['dtype']}, batch {problem['batch']}, {heads}, {lengths}"
    return f"{head}, head_dim {problem['head_dim']}{causal}, {tile}"
