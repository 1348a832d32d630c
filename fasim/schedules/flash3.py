"""FlashAttention-3 forward (Shah et al. 2024): FlashAttention-2's program, mapped for Hopper.

Warpgroups of 64 rows each multiply by wgmma; a producer warpgroup fetches K and V by TMA. The
matmul with V is issued a tile late, beside the next QKᵀ, and warpgroups take turns at the tensor
cores: softmax runs beside the products. No byte of global memory and no bit of the output
changes by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasim.problem import DTYPE_BYTES, Attention
from fasim.schedules import flash2
from fasim.schedules.language import Kernel
from fasim.schedules.mapping import Mapping
from fasim.schedules.residency import SPECIALISED_KERNEL_REGISTERS
from fasim.schedules.tiling import Tiling

if TYPE_CHECKING:
    from fasim.hardware import Gpu

WARPGROUP_ROWS = 64  # of wgmma
WARPGROUP_WARPS = 4
# By computing warpgroups: registers a thread at launch, and those of a computing thread after
# setmaxnreg (hopper/flash_fwd_kernel_sm90.h).
REGISTERS = {1: (256, 256), 2: (168, 240), 3: (128, 160)}
FEATURES = ("wgmma", "tma")


def lacking(gpu: Gpu) -> str | None:
    """Why a GPU cannot run such kernels; None if it can."""
    if set(FEATURES) <= set(gpu.features):
        return None
    return f"it needs {' and '.join(FEATURES)}; {gpu.name} has {', '.join(gpu.features)}"


def tile_fault(tile: tuple[int, int], warps: int | None) -> str | None:
    """Why a block cannot be divided among warpgroups so; None if it can."""
    rows = [groups * WARPGROUP_ROWS for groups in REGISTERS]
    if tile[0] not in rows:
        return (
            f"tile {tile[0]}x{tile[1]}: a warpgroup takes {WARPGROUP_ROWS} rows of Q; "
            f"{', '.join(map(str, rows))} would work"
        )
    needed = tile[0] // WARPGROUP_ROWS * WARPGROUP_WARPS
    if warps not in (None, needed):
        return (
            f"tile {tile[0]}x{tile[1]} on {warps} warps: a warpgroup takes "
            f"{WARPGROUP_ROWS} rows of Q; {needed} would work"
        )
    return None


def output_dtype(dtype: str) -> str:
    """What O is stored as: bf16 for one-byte inputs."""
    return "bf16" if dtype == "fp8" else dtype


def mapping(tile: tuple[int, int], head_dim: int, dtype: str, stages: int = 2) -> Mapping:
    """Computing warpgroups in turns, a producer warpgroup, `stages` buffers of K and of V.

    P stays in registers where they hold it beside the accumulators, and goes through shared
    memory where not. One-byte V is transposed in shared memory.

    Args:
        tile: rows of Q, a multiple of 64 up to 192, and of K/V.
        head_dim: of the compiled kernel.
    """
    rows, columns = tile
    groups = rows // WARPGROUP_ROWS
    at_launch, computing = REGISTERS[groups]
    element_bytes = DTYPE_BYTES[dtype]
    p_registers = columns * element_bytes // 8  # 64 × columns over 128 threads, in fours of bytes
    needed = (columns + head_dim) // 2 + p_registers + SPECIALISED_KERNEL_REGISTERS
    in_registers = needed <= computing
    return Mapping(
        warps=groups * WARPGROUP_WARPS,
        matrix_unit="wgmma",
        copy_unit="tma",
        producer_warps=WARPGROUP_WARPS,
        buffers=(("Q", 1), ("K", stages), ("V", stages)),
        delayed=("O",),
        ping_pong=groups > 1,
        operands_in_registers=("O",) if in_registers else (),
        staged_in=(("O", "V"),),
        transposed=("V",) if element_bytes == 1 else (),
        registers_per_thread=at_launch,
        computing_registers=computing,
        persistent=True,
        source="Shah et al. 2024, sections 3.1 and 3.2",
    )


def kernels(
    problem: Attention, tiling: Tiling, mapping: Mapping, head_dim: int = 0
) -> tuple[Kernel, ...]:
    """The chain: FlashAttention-2's one kernel; O of FP8 inputs is stored as BF16."""
    return flash2.kernels(
        problem,
        tiling,
        mapping,
        head_dim,
        name="flash3_forward",
        output_dtype=output_dtype(problem.dtype),
    )
