"""What is read out of one compiled kernel, and its JSON form."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from gpu_kernels.compile.ahead_of_time import Binary, compile_variant
from gpu_kernels.compile.buffers import buffers_of, most_alive
from gpu_kernels.compile.main_loop import main_loop
from gpu_kernels.compile.products import tensor_instructions
from gpu_kernels.compile.resources import resources_of
from gpu_kernels.compile.sass import function_of, mix
from gpu_kernels.compile.targets import CAPABILITIES
from gpu_kernels.compile.toolchain import disassemble, toolchain_version
from gpu_kernels.variant import Variant


@dataclass(frozen=True)
class CompiledKernel:
    """One kernel on one architecture.

    Attributes:
        shared_memory_bytes: of a block, as the launcher asks for it.
        buffers: those of the compiler's IR that live at the fullest time: name, number of tiles,
            tile, dtype, bytes.
        buffer_bytes: their sum; the rest of the shared memory is scratch.
        registers, spills: of a thread; spilled registers.
        unroll: iterations of the source's loop in one of the machine's; None where neither
            multiplies matrices.
        loop: instructions of the main loop in the order of addresses, by name; loops inside it,
            which wait for a barrier, are left out.
        instructions: of one iteration of the source's loop, how many there are of each name.
    """

    kernel: str
    arch: str
    toolchain: str
    schedule: str
    kernel_name: str
    head_dim: int
    tile_m: int
    tile_n: int
    dtype: str
    causal: bool
    num_warps: int
    num_stages: int
    shared_memory_bytes: int
    tensor_memory_columns: int
    buffers: tuple[dict[str, Any], ...]
    buffer_bytes: int
    registers: int
    spills: int
    unroll: float | None
    loop: tuple[str, ...]
    instructions: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def read(variant: Variant, arch: str, binary: Binary) -> CompiledKernel:
    """Reads a binary: its resources, its buffers, its main loop."""
    sass, usage = disassemble(binary.cubin)
    resources = resources_of(usage, binary.function)
    alive = most_alive(buffers_of(binary.ttgir))
    loop = main_loop(function_of(sass, binary.function))
    code = loop.own if loop else ()
    needed = tensor_instructions(binary.ttgir)
    found = sum(each.is_tensor for each in code)
    unroll = found / needed if needed else None
    return CompiledKernel(
        kernel=variant.name,
        arch=arch,
        toolchain=toolchain_version(CAPABILITIES[arch]),
        schedule=variant.schedule,
        kernel_name=variant.kernel_name,
        head_dim=variant.head_dim,
        tile_m=variant.tile_m,
        tile_n=variant.tile_n,
        dtype=variant.dtype,
        causal=variant.causal,
        num_warps=variant.num_warps,
        num_stages=variant.num_stages,
        shared_memory_bytes=binary.shared_memory_bytes,
        tensor_memory_columns=binary.tensor_memory_columns,
        buffers=tuple(
            {
                "name": each.name,
                "count": each.count,
                "tile": list(each.tile),
                "dtype": each.dtype,
                "bytes": each.bytes,
            }
            for each in alive
        ),
        buffer_bytes=sum(each.bytes for each in alive),
        registers=resources.registers,
        spills=resources.spills,
        unroll=unroll,
        loop=tuple(each.name for each in code),
        instructions={name: count / (unroll or 1) for name, count in mix(code).items()},
    )


def compile_kernel(variant: Variant, arch: str) -> CompiledKernel:
    """Compiles a kernel and reads what came out."""
    return read(variant, arch, compile_variant(variant, arch))
