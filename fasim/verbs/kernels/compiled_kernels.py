"""The verb `kernels compile`: real kernels compiled without a GPU, against the model of them.

The compiler runs in a process of its own, so that neither torch nor triton is loaded here. What
it made of a kernel is compared with what fasim's plan says of the same kernel and tile: shared
memory by the mapping's buffers, instructions of an iteration by lowering.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fasim.problem import ProblemError
from fasim.schedules.plan import Refused
from fasim.verbs.kernels.compiled_kernel import CompiledKernel
from fasim.verbs.kernels.modelled_kernel import ModelledKernel, model_of
from fasim.verbs.kernels.validate_kernels import GPUS

#: Scratch of a block beside its tiles: row results exchanged between warps, barriers.
SCRATCH_BYTES = 2048
FP32_TOLERANCE = 0.1
TCGEN05 = "UTC"  # what its opcodes begin with


@dataclass(frozen=True)
class KernelCheck:
    """One kernel, compiled and modelled.

    Attributes:
        modelled: None where fasim plans no such kernel.
        faults: where the two disagree, a sentence each.
        reason: why something was not compared; empty where all was.
    """

    compiled: CompiledKernel
    modelled: ModelledKernel | None
    faults: tuple[str, ...]
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        compiled, modelled = self.compiled, self.modelled
        return {
            "kernel": compiled.kernel,
            "arch": compiled.arch,
            "toolchain": compiled.toolchain,
            "schedule": compiled.schedule,
            "head_dim": compiled.head_dim,
            "tile": list(compiled.tile),
            "dtype": compiled.dtype,
            "causal": compiled.causal,
            "warps": compiled.warps,
            "stages": compiled.stages,
            "shared_memory_bytes": compiled.shared_memory_bytes,
            "buffer_bytes": compiled.buffer_bytes,
            "buffers": [
                {"name": name, "count": count, "tile": list(tile)}
                for name, count, tile in compiled.buffers
            ],
            "predicted_shared_memory_bytes": modelled and modelled.shared_memory_bytes,
            "registers": compiled.registers,
            "spills": compiled.spills,
            "loop": {"unroll": compiled.unroll, "instructions": dict(compiled.instructions)},
            "work": compiled.work,
            "predicted_work": dict(modelled.work) if modelled else None,
            "not_compared": self.reason,
            "faults": list(self.faults),
        }


@dataclass(frozen=True)
class CompiledKernels:
    """Every kernel that was compiled, and those that were not, with the compiler's reason.

    Attributes:
        failed: (kernel, arch, reason).
    """

    checks: tuple[KernelCheck, ...]
    failed: tuple[tuple[str, str, str], ...]

    @property
    def agrees(self) -> bool:
        """Whether everything compiled, and as it is modelled."""
        return not self.failed and not any(check.faults for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "agrees": self.agrees,
            "kernels": [check.to_dict() for check in self.checks],
            "failed": [
                {"kernel": kernel, "arch": arch, "reason": reason}
                for kernel, arch, reason in self.failed
            ],
        }


def compile_kernels(
    archs: Sequence[str],
    kernel: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CompiledKernels:
    """Compiles every kernel, or those of one name, for each architecture, and compares.

    Raises:
        ProblemError: an architecture or kernel there is none of; torch or triton is missing.
    """
    for arch in archs:
        if arch not in GPUS:
            raise ProblemError(f"arch is {arch!r}; choose from {', '.join(GPUS)}")
    checks, failed = list[KernelCheck](), list[tuple[str, str, str]]()
    for done, line in enumerate(_compiling(archs, kernel), start=1):
        if "failed" in line:
            fault = line["failed"]
            failed.append((fault["kernel"], fault["arch"], fault["reason"]))
        else:
            checks.append(check(CompiledKernel.from_dict(line["compiled"])))
        if progress is not None:
            progress(done, line["of"])
    return CompiledKernels(tuple(checks), tuple(failed))


def _compiling(archs: Sequence[str], kernel: str | None) -> Iterator[dict[str, Any]]:
    """The lines that the compiling process prints, as they come."""
    missing = [name for name in ("torch", "triton") if importlib.util.find_spec(name) is None]
    if missing:
        raise ProblemError(
            f"compiling kernels needs {' and '.join(missing)}; install fasim with its extra gpu"
        )
    command = [sys.executable, "-m", "gpu_kernels.compile", "--arch", ",".join(archs)]
    if kernel is not None:
        command += ["--kernel", kernel]
    # Where kernels are interpreted, there is nothing to compile.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, env=environment
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
        if process.wait():
            said.seek(0)
            lines = said.read().strip().splitlines()
            raise ProblemError(lines[-1] if lines else f"the compiler ended: {process.returncode}")


def check(compiled: CompiledKernel) -> KernelCheck:
    """One compiled kernel against the model of it."""
    spilled = (f"{compiled.spills} registers are spilled",) if compiled.spills else ()
    try:
        modelled = model_of(compiled)
    except (Refused, ProblemError) as fault:
        return KernelCheck(compiled, None, spilled, str(fault))
    faults = [*spilled, *_launch_faults(compiled, modelled)]
    reason = ""
    if _only_scratch(compiled, modelled):
        reason = (
            f"shared memory: {compiled.shared_memory_bytes} bytes in which elements change threads "
            "between the compiler's layouts, and no tile"
        )
    else:
        faults += _memory_faults(compiled, modelled)
    if any(name.startswith(TCGEN05) for name in compiled.instructions) and modelled.work:
        reason = (
            f"instructions: it multiplies by tcgen05, and is planned with {modelled.matrix_unit}"
        )
    else:
        faults += _work_faults(compiled, modelled)
    return KernelCheck(compiled, modelled, tuple(faults), reason)


def _launch_faults(compiled: CompiledKernel, modelled: ModelledKernel) -> list[str]:
    """A kernel that multiplies has the plan's tile and warps; how others cut is their own."""
    faults = []
    if modelled.work and compiled.tile != modelled.tile:
        found, planned = ("x".join(map(str, tile)) for tile in (compiled.tile, modelled.tile))
        faults.append(f"tile is {found}, planned {planned}")
    if modelled.work and compiled.warps != modelled.warps:
        faults.append(f"{compiled.warps} warps, planned with {modelled.warps}")
    return faults


def _only_scratch(compiled: CompiledKernel, modelled: ModelledKernel) -> bool:
    """Whether neither has a tile in shared memory, and the compiler needs much of it all the same:
    where elements of two widths meet, as a mask of bytes and P, it moves them between threads."""
    tiles = compiled.buffer_bytes or modelled.shared_memory_bytes
    return not tiles and compiled.shared_memory_bytes >= SCRATCH_BYTES


def _memory_faults(compiled: CompiledKernel, modelled: ModelledKernel) -> list[str]:
    """Shared memory is the IR's tiles and the mapping's, but for scratch."""
    found, tiles, predicted = (
        compiled.shared_memory_bytes,
        compiled.buffer_bytes,
        modelled.shared_memory_bytes,
    )
    faults = []
    if not 0 <= found - tiles < SCRATCH_BYTES:
        faults.append(f"shared memory is {found} bytes, the IR's buffers {tiles}")
    if not 0 <= found - predicted < SCRATCH_BYTES:
        faults.append(f"shared memory is {found} bytes, the mapping's buffers {predicted}")
    return faults


def _work_faults(compiled: CompiledKernel, modelled: ModelledKernel) -> list[str]:
    if not modelled.work:
        return []
    faults = list[str]()
    if compiled.unroll is None or compiled.unroll % 1:
        faults.append(f"the loop holds {compiled.unroll} iterations, no whole number")
    for kind, tolerance in (("matmul", 0.0), ("exp2", 0.0), ("fp32", FP32_TOLERANCE)):
        found, predicted = compiled.work[kind], modelled.work[kind]
        if abs(found - predicted) > tolerance * found:
            faults.append(f"{kind}: {found:g} an iteration, predicted {predicted:g}")
    return faults
