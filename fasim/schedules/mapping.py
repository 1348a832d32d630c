"""How a kernel runs on an SM: data that changes time, and neither bytes nor bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

MatrixUnit = Literal["mma.sync", "wgmma", "ffma", "none"]
CopyUnit = Literal["cp.async", "tma", "registers"]


@dataclass(frozen=True, slots=True)
class Mapping:
    """A kernel's way of running.

    Attributes:
        warps: warps of a block that compute.
        matrix_unit: instruction that multiplies: `mma.sync` (a warp, operands in registers),
            `wgmma` (Hopper: a warpgroup, asynchronous, operands in shared memory), `ffma` (FP32
            lanes, no tensor cores), `none`.
        copy_unit: how tiles arrive: `cp.async` or `tma` into shared memory, or `registers`
            (plain loads).
        producer_warps: warps beside the computing ones that only fetch tiles.
        buffers: (tensor, number of shared-memory buffers); a loaded tensor not named stays in
            registers.
        wait_before: (tensor, name of the matmul before which it must have arrived). A tensor
            not named is waited for at its first use.
        delayed: matmuls issued an iteration late, right behind the next tile's first: the
            softmax in between runs beside them (FlashAttention-3, intra-warpgroup overlap).
        ping_pong: warpgroups take turns at the tensor cores, so that one's softmax runs beside
            the other's products.
        operands_in_registers: matmuls that take their left operand from registers, where it
            was computed (P in PV); one not named passes through shared memory.
        transposed: tensors whose tiles are transposed in shared memory, into as many buffers
            more (wgmma reads one-byte operands along the contracted side only).
        staged_in: (stored tensor, loaded tensor in whose buffers its tile leaves by TMA).
        multicast: (tensor, blocks of a cluster that fetch its tiles together): L2 is read once.
        registers_per_thread: as compiled, where a source gives it; otherwise estimated.
        computing_registers: what a computing thread has once the producers have given theirs up
            (setmaxnreg); as all threads if not given.
        shared_memory_bytes: of a block, where its products stream their operands in pieces and
            tiles never lie in shared memory whole; otherwise the sum of its buffers.
        instructions_per_element: for streaming kernels whose compiled length is known:
            issued instructions per element; the program's own count otherwise.
        warp_grid: rows × columns of warps over a tile of a product; all over rows if not given.
        warp_grids: (name of a matmul, its warp_grid) of those that differ.
        persistent: blocks stay and take tile after tile, whose start and end overlap.
        block_order: `grid` (blockIdx order), or `longest-first`: in sections of heads, all of a
            section's heaviest causal blocks, then the next lighter.
        section_bytes: K and V that the heads of such a section fill at most.
        sums_every_step: the threads that share a row combine their sums in every iteration;
            otherwise once, at the end.
        fast_math: compiled with it: exp2 flushes denormals, and a product whose only use is an
            addition becomes one instruction with it.
        extra_launches: launches beside the kernel that move next to nothing (a counter zeroed).
        source: where the facts come from.
    """

    warps: int
    matrix_unit: MatrixUnit = "mma.sync"
    copy_unit: CopyUnit = "cp.async"
    producer_warps: int = 0
    buffers: tuple[tuple[str, int], ...] = ()
    wait_before: tuple[tuple[str, str], ...] = ()
    delayed: tuple[str, ...] = ()
    ping_pong: bool = False
    operands_in_registers: tuple[str, ...] = ()
    transposed: tuple[str, ...] = ()
    staged_in: tuple[tuple[str, str], ...] = ()
    multicast: tuple[tuple[str, int], ...] = ()
    registers_per_thread: int | None = None
    computing_registers: int | None = None
    shared_memory_bytes: int | None = None
    instructions_per_element: float | None = None
    warp_grid: tuple[int, int] | None = None
    warp_grids: tuple[tuple[str, tuple[int, int]], ...] = ()
    persistent: bool = False
    block_order: Literal["grid", "longest-first"] = "grid"
    section_bytes: int = 0
    sums_every_step: bool = False
    fast_math: bool = True
    extra_launches: int = 0
    source: str = ""

    @property
    def threads(self) -> int:
        """Threads of a block, producers included."""
        return 32 * (self.warps + self.producer_warps)

    @property
    def warpgroups(self) -> int:
        """Groups of four warps that compute; one where there are fewer."""
        return max(1, self.warps // 4)

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

    def multicast_count(self, tensor: str) -> int:
        """Blocks that a tile of a tensor is fetched for at once; 1 without a cluster."""
        return dict(self.multicast).get(tensor, 1)

    def with_buffers(self, buffers: tuple[tuple[str, int], ...]) -> Mapping:
        """The same mapping with other shared-memory buffers."""
        return replace(self, buffers=buffers)
