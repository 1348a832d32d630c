"""Compiled kernels beside the model of them, as text."""

from __future__ import annotations

from fasim.report.quantities import bytes_text
from fasim.report.tables import table
from fasim.verbs.kernels.compiled_kernels import CompiledKernels, KernelCheck


def compiled_text(compiled: CompiledKernels) -> str:
    """A row a kernel, then where the two disagree, then what was not compared or compiled."""
    header = (
        "kernel",
        "arch",
        "d",
        "tile",
        "dtype",
        "mask",
        "warps",
        "stages",
        "buffers",
        "shared",
        "predicted",
        "registers",
        "spills",
        "unroll",
        "matmul",
        "exp2",
        "fp32",
        "",
    )
    parts = []
    if compiled.checks:
        parts.append(table(header, [_row(check) for check in compiled.checks], left=6))
        parts.append(
            "Instructions of a thread in one iteration, compiled/predicted; "
            f"{sum(not check.faults for check in compiled.checks)} of {len(compiled.checks)} "
            "kernels as modelled."
        )
    faults = [f"{_name(check)}: {fault}" for check in compiled.checks for fault in check.faults]
    faults += [f"{kernel} on {arch}: {reason}" for kernel, arch, reason in compiled.failed]
    if faults:
        parts.append("\n".join(faults))
    reasons: dict[str, list[str]] = {}
    for check in compiled.checks:
        if check.reason:
            reasons.setdefault(check.reason, []).append(_name(check))
    if reasons:
        parts.append(
            "\n".join(
                f"{len(names)} kernels not compared: {reason}" for reason, names in reasons.items()
            )
        )
    return "\n\n".join(parts)


def _name(check: KernelCheck) -> str:
    compiled = check.compiled
    mask = " causal" if compiled.causal else ""
    return f"{compiled.kernel} d{compiled.head_dim} {compiled.dtype}{mask} on {compiled.arch}"


def _row(check: KernelCheck) -> tuple[str, ...]:
    compiled, modelled = check.compiled, check.modelled
    predicted = modelled.work if modelled else {}

    def pair(kind: str) -> str:
        if not compiled.work[kind] and not predicted.get(kind):
            return "-"
        said = f"{predicted[kind]:g}" if kind in predicted else "?"
        return f"{compiled.work[kind]:g}/{said}"

    return (
        compiled.kernel,
        compiled.arch,
        str(compiled.head_dim),
        f"{compiled.tile[0]}x{compiled.tile[1]}",
        compiled.dtype,
        "causal" if compiled.causal else "-",
        str(compiled.warps),
        str(compiled.stages),
        " ".join(f"{name}x{count}" for name, count, _ in compiled.buffers) or "-",
        bytes_text(compiled.shared_memory_bytes),
        bytes_text(modelled.shared_memory_bytes if modelled else None),
        str(compiled.registers),
        str(compiled.spills) if compiled.spills else "-",
        "-" if compiled.unroll is None else f"{compiled.unroll:g}",
        pair("matmul"),
        pair("exp2"),
        pair("fp32"),
        "differs" if check.faults else "ok",
    )
