"""`fasim validate --kernels`: the real kernels interpreted and compiled, against the model of them.

Interpreting shows that outputs are right and bytes as predicted; compiling that shared memory and
instructions are as mapped, and that nothing spills. Neither needs a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fasim.verbs.kernels.compiled_kernels import CompiledKernels, KernelCheck, compile_kernels
from fasim.verbs.kernels.validate_kernels import Cases, CheckedKernel, KernelChecks, check_kernels


@dataclass(frozen=True)
class ValidatedKernel:
    """One kernel on one architecture.

    Attributes:
        kernel: its name in the chain of its schedule.
        interpreted: None where it was not interpreted with this architecture's tiles.
        compiled: each variant that was compiled: head dimensions, dtypes, masks.
        failed: what the compiler said of variants that it would not take.
    """

    kernel: str
    arch: str
    interpreted: CheckedKernel | None
    compiled: tuple[KernelCheck, ...]
    failed: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[str, ...]:
        """Everything in which the kernel and the model of it differ, a sentence each."""
        run = self.interpreted.mismatches if self.interpreted else ()
        compiled = (
            f"{check.compiled.kernel} d{check.compiled.head_dim} {check.compiled.dtype}: {fault}"
            for check in self.compiled
            for fault in check.faults
        )
        return (*run, *compiled, *self.failed)

    @property
    def shared_memory_bytes(self) -> int | None:
        """Of a block, the most of its variants."""
        return max((c.compiled.shared_memory_bytes for c in self.compiled), default=None)

    @property
    def registers(self) -> int | None:
        """Of a thread, the most of its variants."""
        return max((check.compiled.registers for check in self.compiled), default=None)

    @property
    def spills(self) -> int | None:
        """Of a thread, the most of its variants."""
        return max((check.compiled.spills for check in self.compiled), default=None)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kernel": self.kernel,
            "arch": self.arch,
            "cases": self.interpreted.cases if self.interpreted else 0,
            "mismatches": len(self.faults),
            "faults": list(self.faults),
            "variants": len(self.compiled),
            "shared_memory_bytes": self.shared_memory_bytes,
            "registers": self.registers,
            "spills": self.spills,
        }


@dataclass(frozen=True)
class KernelValidation:
    """Every kernel, interpreted and compiled.

    Attributes:
        cases: problems that were run.
        versions: of torch and triton.
    """

    kernels: tuple[ValidatedKernel, ...]
    cases: int
    versions: dict[str, str]

    @property
    def agrees(self) -> bool:
        """Whether every output is right, every byte as predicted, every loop as modelled."""
        return not any(kernel.faults for kernel in self.kernels)

    def to_dict(self) -> dict[str, Any]:
        return {
            "agrees": self.agrees,
            "cases": self.cases,
            "versions": self.versions,
            "kernels": [kernel.to_dict() for kernel in self.kernels],
        }


def validate_kernels(
    archs: Sequence[str],
    cases: Cases = "quick",
    *,
    progress: Callable[[int, int], None] | None = None,
) -> KernelValidation:
    """Interprets and compiles every kernel, and compares both with the model.

    Args:
        archs: to compile for: sm_80, sm_89, sm_90, sm_100. Cases are interpreted with the tiles
            of all of them.
        progress: called with kernels compiled and kernels in all.

    Raises:
        KernelsUnavailable: torch or triton is missing, or the kernels do not run.
        ProblemError: an architecture there is none of.
    """
    interpreted = check_kernels(cases)
    return joined(interpreted, compile_kernels(archs, None, progress))


def joined(interpreted: KernelChecks, compiled: CompiledKernels) -> KernelValidation:
    """Both results, by kernel and architecture."""
    runs = {(each.kernel, each.arch): each for each in interpreted.kernels}
    variants: dict[tuple[str, str], list[KernelCheck]] = {}
    for check in compiled.checks:
        name = check.compiled.kernel_name or check.compiled.kernel
        variants.setdefault((name, check.compiled.arch), []).append(check)
    failed: dict[tuple[str, str], list[str]] = {}
    for kernel, arch, reason in compiled.failed:
        failed.setdefault((kernel, arch), []).append(f"{kernel}: {reason}")
    return KernelValidation(
        tuple(
            ValidatedKernel(
                *key, runs.get(key), tuple(variants.get(key, ())), tuple(failed.get(key, ()))
            )
            for key in sorted({*runs, *variants, *failed})
        ),
        interpreted.cases,
        interpreted.versions,
    )
