"""How a kernel runs on an SM: data that changes time, and neither bytes nor bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

MatrixUnit = Literal["mma.sync", "wgmma", "none"]
CopyUnit = Literal["cp.async", "tma", "registers"]


@dataclass(frozen=True, slots=True)
class Mapping:
    """A kernel's way of running.

    Attributes:
        warps: warps of a block that compute.
        matrix_unit: instruction that multiplies: `mma.sync` (a warp, operands in registers),
            `wgmma` (Hopper: a warpgroup, asynchronous, operands in shared memory), `none`.
        copy_unit: how tiles arrive: `cp.async` or `tma` into shared memory, or `registers`
            (plain loads).
        buffers: (tensor, number of shared-memory buffers); a loaded tensor not named stays in
            registers.
        wait_before: (tensor, name of the matmul before which it must have arrived). A tensor
            not named is waited for at its first use.
        operands_in_registers: matmuls that take their left operand from registers, where it
            was computed (P in PV); one not named passes through shared memory.
        registers_per_thread: as compiled, where a source gives it; otherwise estimated.
        instructions_per_element: for streaming kernels whose compiled length is known:
            issued instructions per element; the program's own count otherwise.
        warp_grid: rows × columns of warps over a tile of a product; all over rows if not given.
        warp_grids: (name of a matmul, its warp_grid) of those that differ.
        block_order: `grid` (blockIdx order) or `reversed` (heaviest causal blocks first).
        source: where the facts come from.
    """

    warps: int
    matrix_unit: MatrixUnit = "mma.sync"
    copy_unit: CopyUnit = "cp.async"
    buffers: tuple[tuple[str, int], ...] = ()
    wait_before: tuple[tuple[str, str], ...] = ()
    operands_in_registers: tuple[str, ...] = ()
    registers_per_thread: int | None = None
    instructions_per_element: float | None = None
    warp_grid: tuple[int, int] | None = None
    warp_grids: tuple[tuple[str, tuple[int, int]], ...] = ()
    block_order: Literal["grid", "reversed"] = "grid"
    source: str = ""

    @property
    def threads(self) -> int:
        return 32 * self.warps

    def warp_tile(self, shape: tuple[int, int], matmul: str = "") -> tuple[int, int]:
        """Rows and columns of a tile that one warp works on; 16 rows at least."""
        usual = self.warp_grid or (self.warps, 1)
        down, across = dict(self.warp_grids).get(matmul, usual)
        return max(min(16, shape[0]), shape[0] // down), max(1, shape[1] // across)

    def in_registers(self, matmul: str) -> bool:
        """Whether a matmul takes its left operand from the registers it was computed in."""
        return matmul in self.operands_in_registers

    def buffer_count(self, tensor: str) -> int:
        """Shared-memory buffers of a tensor; 0 if it does not pass through shared memory."""
        return dict(self.buffers).get(tensor, 0)

    def with_buffers(self, buffers: tuple[tuple[str, int], ...]) -> Mapping:
        """The same mapping with other shared-memory buffers."""
        return replace(self, buffers=buffers)
