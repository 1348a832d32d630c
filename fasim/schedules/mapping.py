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
        copy_bytes: what a thread moves by one copy: 16 bytes, less where rows are not aligned to
            them. cp.async takes 4 at least; 2 pass through a register and a store of their own.
        plain_loads: tensors with buffers that no copy brings ahead: a tile comes into registers,
            and is stored into its buffer when it is needed.
        wait_before: (tensor, name of the matmul before which it must have arrived). A tensor
            not named is waited for at its first use. One that comes into registers, and is named,
            goes on from there into shared memory.
        copies_last: an iteration's copies are issued at its end, behind a barrier of their own;
            otherwise each at the first wait point after its buffer's last use.
        list_scheduled: the compiler orders instructions between barriers by when operands and
            pipes are ready; otherwise they stay in the order of the program.
        guarded_fragments: a fragment of mma.sync is fetched into registers that products have read
            once all products issued so far have ended: the compiler guards their operands by a
            scoreboard that they set then (ptxas 11.8 to 12.3, for sm_80 and sm_89). Otherwise the
            next step's are fetched beside this step's products (ptxas 12.4 on; any for sm_90).
        joins_products: the block joins behind each wgmma that the loop waits for.
        delayed: matmuls issued an iteration late, right behind the next tile's first: the
            softmax in between runs beside them (FlashAttention-3, intra-warpgroup overlap).
        ping_pong: warpgroups take turns at the tensor cores, so that one's softmax runs beside
            the other's products.
        beside: (matmul, the one right behind which it is issued): what the program does in
            between runs beside it (FlashAttention-3's backward: dP behind S, dK behind dQ).
        operands_in_registers: matmuls that take their left operand from registers, where it
            was computed (P in PV), a transposed one its right; one not named passes through
            shared memory.
        transposed_matmuls: matmuls computed as their transpose, as wgmma takes 64 rows of the
            result at a time and any multiple of eight columns.
        operand_buffers: (matmul, shared-memory buffers of the computed tile it takes from
            there); one if not named.
        bulk_reduced: tensors that tiles are added to by TMA, from a buffer of their own in
            shared memory; to others every thread adds its values.
        transposed: tensors whose tiles are transposed in shared memory, into as many buffers
            more (wgmma reads one-byte operands along the contracted side only).
        rearranged: (stored tensor, ways) of those whose tiles pass through shared memory in FP32
            first, so that threads store whole rows; in so many ways do the stores conflict for
            its banks.
        staged_in: (stored tensor, loaded tensor in whose buffers its tile leaves by TMA).
        multicast: (tensor, blocks of a cluster that fetch its tiles together): L2 is read once.
        registers_per_thread: as compiled, where a source gives it; otherwise estimated.
        least_blocks: blocks that must be able to share an SM (`__launch_bounds__`): the compiler
            gives a thread no more registers than leave room for them.
        computing_registers: what a computing thread has once the producers have given theirs up
            (setmaxnreg); as all threads if not given.
        spilled_in_loop: registers that an iteration puts into local memory and takes out again,
            as compiled, where a source gives it; otherwise estimated.
        shared_memory_bytes: of a block, where its products stream their operands in pieces, or
            tiles take each other's place; otherwise the sum of its buffers.
        instructions_per_element: for streaming kernels whose compiled length is known:
            issued instructions per element; the program's own count otherwise.
        lookups: latencies beside those of the program's loads: of tables that say where a block's
            data lie, and of threads that load one value after the other.
        start_cycles: how long a warp alone issues before the first tile's load, or, of a streaming
            kernel, altogether, its loop left out: by the stalls in its machine code, where a source
            gives it, without the latencies of memory; estimated otherwise.
        overhead: what a warp issues in an iteration of the main loop for addresses, bounds and
            control, where the compiled loop is known: instructions of the integer pipe, of
            FP32's (integer multiply-adds), and others; estimated otherwise.
        warp_grid: rows × columns of warps over a tile of a product; all over rows if not given.
        warp_grids: (name of a matmul, its warp_grid) of those that differ.
        lies_transposed: matmuls whose result is computed transposed. Where it meets another
            product's, element by element, it is read from shared memory, staged as an operand.
        product_step: contracted elements between two barriers of a product whose operands are
            loaded for it alone: they come in pieces as long. 0 if tiles are loaded whole.
        stages: pieces of an operand that shared memory holds.
        fetched_after: (matmul, the matmul after which the first pieces of its operands are
            fetched): their shared memory is taken until then. Right before itself if not named.
        locked: tensors that blocks add to under a lock, and not atomically: read, added up by
            the product that makes what is added, and written back.
        persistent: blocks stay and take tile after tile, whose start and end overlap.
        block_order: `grid` (blockIdx order), or `longest-first`: in sections of heads, all of a
            section's heaviest causal blocks, then the next lighter.
        section_bytes: what the heads of such a section fill at most, of the matrices that
            their blocks walk: K and V forward.
        masks_every_tile: one loop goes over masked tiles and others alike, and pays for the mask
            in all; otherwise tiles that the mask does not cut have a loop of their own.
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
    copy_bytes: int = 16
    plain_loads: tuple[str, ...] = ()
    wait_before: tuple[tuple[str, str], ...] = ()
    copies_last: bool = False
    list_scheduled: bool = False
    guarded_fragments: bool = False
    joins_products: bool = False
    delayed: tuple[str, ...] = ()
    ping_pong: bool = False
    beside: tuple[tuple[str, str], ...] = ()
    operands_in_registers: tuple[str, ...] = ()
    transposed_matmuls: tuple[str, ...] = ()
    operand_buffers: tuple[tuple[str, int], ...] = ()
    bulk_reduced: tuple[str, ...] = ()
    transposed: tuple[str, ...] = ()
    rearranged: tuple[tuple[str, int], ...] = ()
    staged_in: tuple[tuple[str, str], ...] = ()
    multicast: tuple[tuple[str, int], ...] = ()
    registers_per_thread: int | None = None
    least_blocks: int = 1
    computing_registers: int | None = None
    spilled_in_loop: int | None = None
    shared_memory_bytes: int | None = None
    instructions_per_element: float | None = None
    lookups: int = 0
    start_cycles: int | None = None
    overhead: tuple[int, int, int] | None = None
    warp_grid: tuple[int, int] | None = None
    warp_grids: tuple[tuple[str, tuple[int, int]], ...] = ()
    lies_transposed: tuple[str, ...] = ()
    product_step: int = 0
    stages: int = 0
    fetched_after: tuple[tuple[str, str], ...] = ()
    locked: tuple[str, ...] = ()
    persistent: bool = False
    block_order: Literal["grid", "longest-first"] = "grid"
    section_bytes: int = 0
    masks_every_tile: bool = False
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

    def grid_of(self, matmul: str = "") -> tuple[int, int]:
        """Rows × columns of warps over the tile of a product."""
        return dict(self.warp_grids).get(matmul, self.warp_grid or (self.warps, 1))

    def warp_tile(self, shape: tuple[int, int], matmul: str = "") -> tuple[int, int]:
        """Rows and columns of a tile that one warp works on; 16 rows at least."""
        down, across = self.grid_of(matmul)
        return max(min(16, shape[0]), shape[0] // down), max(1, shape[1] // across)

    def over_rows(self, matmul: str = "") -> bool:
        """Whether each warp has rows of a matmul's tile to itself, all columns of them."""
        return self.grid_of(matmul)[1] == 1

    def warpgroup_tile(self, shape: tuple[int, int], matmul: str) -> tuple[int, int]:
        """Rows and columns of a tile that one warpgroup works on, as its wgmma takes them."""
        down, across = self.grid_of(matmul)
        rows, columns = shape
        if matmul in self.transposed_matmuls:
            rows, columns, down, across = columns, rows, across, down
        return -(-rows // max(1, down // 4)), -(-columns // across)

    def register_operand(self, matmul: str) -> int | None:
        """Which operand a matmul takes from the registers it was computed in; None if neither."""
        if matmul not in self.operands_in_registers:
            return None
        return 1 if matmul in self.transposed_matmuls else 0

    def buffer_count(self, tensor: str) -> int:
        """Shared-memory buffers of a tensor; 0 if it does not pass through shared memory."""
        return dict(self.buffers).get(tensor, 0)

    def multicast_count(self, tensor: str) -> int:
        """Blocks that a tile of a tensor is fetched for at once; 1 without a cluster."""
        return dict(self.multicast).get(tensor, 1)

    def with_buffers(self, buffers: tuple[tuple[str, int], ...]) -> Mapping:
        """The same mapping with other shared-memory buffers."""
        return replace(self, buffers=buffers)
