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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fasim.hardware import load
from fasim.problem import DTYPE_BYTES, Attention, ProblemError
from fasim.schedules import catalog
from fasim.schedules.implementations.gpu_kernels import decode_mapping, product_mapping
from fasim.schedules.language import Kernel
from fasim.schedules.plan import Options, Refused
from fasim.schedules.record import Record, cached_record
from fasim.schedules.residency import block_use
from fasim.simulator.lowering import lower, main_loop
from fasim.simulator.lowering.instructions import MMA_ROWS
from fasim.verbs.validate_kernels import GPUS

if TYPE_CHECKING:
    from fasim.hardware import Gpu

#: Scratch of a block beside its tiles: row results exchanged between warps, barriers.
SCRATCH_BYTES = 2048
FP32_TOLERANCE = 0.1
TCGEN05 = "UTC"  # what its opcodes begin with
BARRIER = "i64"  # the elements of a buffer that holds barriers, no tiles

_TENSOR = ("HMMA", "HGMMA", "QGMMA", "QMMA", "IMMA", "IGMMA", "UTCHMMA", "UTCQMMA")
#: What a thread computes, and the opcodes that do, with how many of them each does at once.
WORK: Mapping[str, Mapping[str, int]] = {
    "matmul": dict.fromkeys(_TENSOR, 1),
    "exp2": {"MUFU.EX2": 1},
    "fp32": {"FFMA": 1, "FMUL": 1, "FADD": 1, "FFMA2": 2, "FMUL2": 2, "FADD2": 2},
    "max": {"FMNMX": 1, "FMNMX3": 2},
}


@dataclass(frozen=True)
class CompiledKernel:
    """What a compiler made of one kernel.

    Attributes:
        kernel: its name; `schedule` and `kernel_name` name the one of fasim's that it mirrors.
        buffer_bytes: tiles in shared memory, by the compiler's IR.
        buffers: of each but barriers, its name, number of tiles and their shape.
        registers, spills: of a thread.
        unroll: iterations of the source in one of the loop; None where it multiplies nothing.
        instructions: of the main loop, by opcode, in one iteration of the source.
    """

    kernel: str
    arch: str
    toolchain: str
    schedule: str
    kernel_name: str
    head_dim: int
    tile: tuple[int, int]
    dtype: str
    causal: bool
    warps: int
    stages: int
    shared_memory_bytes: int
    buffer_bytes: int
    buffers: tuple[tuple[str, int, tuple[int, ...]], ...]
    registers: int
    spills: int
    unroll: float | None
    instructions: Mapping[str, float]

    @classmethod
    def from_dict(cls, read: Mapping[str, Any]) -> CompiledKernel:
        """As the compiling process writes it."""
        same = (
            "kernel arch toolchain schedule kernel_name head_dim dtype causal shared_memory_bytes "
            "buffer_bytes registers spills unroll instructions"
        )
        return cls(
            **{name: read[name] for name in same.split()},
            tile=(read["tile_m"], read["tile_n"]),
            warps=read["num_warps"],
            stages=read["num_stages"],
            buffers=tuple(
                (each["name"], each["count"], tuple(each["tile"]))
                for each in read["buffers"]
                if each["dtype"] != BARRIER
            ),
        )

    @property
    def work(self) -> dict[str, float]:
        """A thread's work in an iteration, by kind."""
        return {
            kind: sum(self.instructions.get(name, 0) * each for name, each in opcodes.items())
            for kind, opcodes in WORK.items()
        }


@dataclass(frozen=True)
class ModelledKernel:
    """What fasim says of the same kernel: shared memory, and a thread's work in an iteration.

    Attributes:
        tile: rows of queries and of keys; rows and columns of an only product.
        work: empty where the kernel multiplies no matrices: it has no main loop.
        matrix_unit: of its mapping.
    """

    shared_memory_bytes: int
    tile: tuple[int, int]
    warps: int
    work: Mapping[str, float]
    matrix_unit: str


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
    faults = [*spilled, *_launch_faults(compiled, modelled), *_memory_faults(compiled, modelled)]
    reason = ""
    if any(name.startswith(TCGEN05) for name in compiled.instructions) and modelled.work:
        reason = (
            f"instructions: it multiplies by tcgen05, and is planned with {modelled.matrix_unit}"
        )
    else:
        faults += _work_faults(compiled, modelled)
    return KernelCheck(compiled, modelled, tuple(faults), reason)


def model_of(compiled: CompiledKernel) -> ModelledKernel:
    """fasim's plan of the same kernel and tile.

    Raises:
        Refused: no plan of that schedule has such a kernel, or has it with other tiles.
    """
    gpu = load(GPUS[compiled.arch]).gpu
    record = _record_of(compiled)
    use = block_use(record)
    path = main_loop(record)
    work: dict[str, float] = {}
    if path:
        work = dict.fromkeys(WORK, 0.0)
        for item in lower(record, gpu, path).plain[0].items:
            kind = {"tensor": "matmul", "sfu": "exp2", "fp32": "fp32"}.get(item.pipe)
            if item.pipe == "alu" and item.name in ("row_max", "maximum"):
                kind = "max"
            if kind is not None:
                work[kind] += item.count
    kernel = record.kernel
    products = [op.shape for op in record.once() if op.kind == "matmul"]
    tile = kernel.tiles.get("q", 0), kernel.tiles.get("k", 0)
    return ModelledKernel(
        shared_memory_bytes=use.shared_memory_bytes,
        tile=products[0] if len(products) == 1 else tile,
        warps=kernel.mapping.warps,
        work=work,
        matrix_unit=kernel.mapping.matrix_unit,
    )


def _record_of(compiled: CompiledKernel) -> Record:
    """The record of the kernel that a compiled one mirrors."""
    gpu = load(GPUS[compiled.arch]).gpu
    name = compiled.schedule
    if not name:
        raise Refused(compiled.kernel, "it mirrors no kernel of a schedule")
    implementation = name if name in catalog.IMPLEMENTATIONS else None
    schedule = None if implementation else name
    # A schedule takes the kernels' tile; rows of single queries are none.
    asked = implementation is None and not any(side % MMA_ROWS for side in compiled.tile)
    options = Options(tile=compiled.tile) if asked else Options()
    for problem in _problems(compiled):
        try:
            plan = catalog.plan(problem, gpu, schedule, implementation, options)
        except (Refused, ProblemError):
            continue
        for kernel in plan.kernels:
            if kernel.name == compiled.kernel_name:
                return cached_record(_as_run(compiled, kernel, gpu))
    raise Refused(name, f"no plan of it has a kernel {compiled.kernel_name}")


def _as_run(compiled: CompiledKernel, kernel: Kernel, gpu: Gpu) -> Kernel:
    """A plan's kernel under the mapping of the project's own, where the plan is not of them."""
    planned = kernel.mapping
    if compiled.schedule in catalog.IMPLEMENTATIONS or planned.matrix_unit == "none":
        return kernel
    if catalog.SCHEDULES[compiled.schedule].decodes:
        return replace(kernel, mapping=decode_mapping(gpu))
    mapping = product_mapping(gpu, planned, compiled.warps, compiled.stages)
    return replace(kernel, mapping=mapping)


def _problems(compiled: CompiledKernel) -> Iterator[Attention]:
    """Problems whose plan may have the kernel: a training shape both ways, decoding."""
    assert compiled.dtype in DTYPE_BYTES
    for direction, seqlen_q in (("forward", 4096), ("backward", 4096), ("forward", 1)):
        yield Attention(
            1,
            1,
            seqlen_q,
            4096,
            compiled.head_dim,
            dtype=compiled.dtype,  # type: ignore[arg-type]  # checked above
            causal=compiled.causal,
            direction=direction,  # type: ignore[arg-type]  # one of the three
        )


def _launch_faults(compiled: CompiledKernel, modelled: ModelledKernel) -> list[str]:
    """A kernel that multiplies has the plan's tile and warps; how others cut is their own."""
    faults = []
    if modelled.work and compiled.tile != modelled.tile:
        found, planned = ("x".join(map(str, tile)) for tile in (compiled.tile, modelled.tile))
        faults.append(f"tile is {found}, planned {planned}")
    if modelled.work and compiled.warps != modelled.warps:
        faults.append(f"{compiled.warps} warps, planned with {modelled.warps}")
    return faults


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
