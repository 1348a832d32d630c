"""The kernels interpreted and compiled, as text."""

from __future__ import annotations

from fasim.report.quantities import bytes_text
from fasim.report.tables import table
from fasim.verbs.kernels.kernel_validation import KernelValidation, ValidatedKernel

HEADER = (
    "kernel",
    "arch",
    "cases",
    "worst output",
    "variants",
    "shared",
    "registers",
    "spills",
    "mismatches",
)


def kernel_validation_text(validation: KernelValidation) -> str:
    """A row a kernel and architecture, then every mismatch."""
    versions = ", ".join(f"{name} {version}" for name, version in validation.versions.items())
    faults = [
        f"{kernel.kernel} on {kernel.arch}: {fault}"
        for kernel in validation.kernels
        for fault in kernel.faults
    ]
    verdict = f"{len(faults)} mismatches" if faults else "outputs, bytes and loops agree"
    parts = [
        table(HEADER, [_row(kernel) for kernel in validation.kernels], left=2),
        "worst output: the largest error over what the tolerance rule allows; bytes are counted "
        "access by access\nand compared with the traffic reading, tensor by tensor. "
        "shared, registers, spills: the most of the variants.",
        f"{validation.cases} problems interpreted ({versions}): {verdict}",
    ]
    return "\n\n".join([*parts, *(["\n".join(faults)] if faults else [])])


def _row(kernel: ValidatedKernel) -> tuple[str, ...]:
    run = kernel.interpreted
    shared = kernel.shared_memory_bytes
    return (
        kernel.kernel,
        kernel.arch,
        str(run.cases) if run else "-",
        f"{run.worst_output:.2f}" if run else "-",
        str(len(kernel.compiled)) if kernel.compiled else "-",
        "-" if shared is None else bytes_text(shared),
        "-" if kernel.registers is None else str(kernel.registers),
        "-" if kernel.spills is None else str(kernel.spills),
        str(len(kernel.faults)),
    )
