"""fasim's plan of a compiled kernel: shared memory, and a thread's work in an iteration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from fasim.hardware import load
from fasim.problem import DTYPE_BYTES, Attention, ProblemError
from fasim.schedules import catalog
from fasim.schedules.plan import Options, Refused
from fasim.schedules.record import Record, cached_record
from fasim.schedules.residency import block_use
from fasim.simulator.lowering import lower, main_loop
from fasim.simulator.lowering.instructions import MMA_ROWS
from fasim.verbs.kernels.compiled_kernel import WORK, CompiledKernel
from fasim.verbs.kernels.validate_kernels import GPUS


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
                return cached_record(kernel)
    raise Refused(name, f"no plan of it has a kernel {compiled.kernel_name}")


def _problems(compiled: CompiledKernel) -> Iterator[Attention]:
    """Problems whose plan may have the kernel: training both ways, decoding, with more to it."""
    assert compiled.dtype in DTYPE_BYTES
    plain = Attention(
        1,
        1,
        4096,
        4096,
        compiled.head_dim,
        dtype=compiled.dtype,  # type: ignore[arg-type]  # checked above
        causal=compiled.causal,
    )
    back = replace(plain, direction="backward")
    yield from (plain, back, replace(plain, seqlen_q=1))
    yield replace(back, heads=4)  # that share keys: their gradients are summed
    yield from (replace(plain, dropout=0.1), replace(back, dropout=0.1))
