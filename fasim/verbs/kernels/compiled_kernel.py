"""One kernel as a compiler made it, read from what the compiling process prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
