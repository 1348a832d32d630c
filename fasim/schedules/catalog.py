"""The catalogue: every schedule and implementation by name, what it needs, how it is planned."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from fasim.problem import TENSOR_DTYPE, Attention
from fasim.schedules import flash1, flash2, standard
from fasim.schedules.implementations import cublas, flash_attn_2, pytorch
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Entry, Plan, Refused, Tile
from fasim.schedules.record import record
from fasim.schedules.residency import block_use, residency
from fasim.schedules.tiling import Tiling

if TYPE_CHECKING:
    from fasim.hardware import Gpu


def _standard(problem: Attention, gpu: Gpu, tile: Tile | None) -> Plan:
    gemm = cublas.gemm(gpu, problem.dtype, tile)
    warp_rows = problem.seqlen_k <= pytorch.SHORT_ROW
    rows = Mapping(warps=4 if warp_rows else 8, matrix_unit="none", copy_unit="registers")
    kernels = standard.kernels(problem, gemm, rows, rows_per_block=4 if warp_rows else 1)
    return Plan("standard", None, kernels, (gemm.tile_m, gemm.tile_n))


def _pytorch(problem: Attention, gpu: Gpu, tile: Tile | None) -> Plan:
    gemm = cublas.gemm(gpu, problem.dtype, tile)
    kernels = pytorch.kernels(problem, gemm)
    return Plan("standard", "pytorch", kernels, (gemm.tile_m, gemm.tile_n))


def _flash1(problem: Attention, gpu: Gpu, tile: Tile | None) -> Plan:
    if tile is None:
        elements = gpu.shared_memory.max_block_bytes // problem.element_bytes
        tile_n = elements // (4 * problem.head_dim) // 16 * 16
        # Br = min(Bc, d), in fragments of 16 rows.
        tile = (max(16, min(tile_n, problem.head_dim) // 16 * 16), max(16, tile_n))
    tiling = Tiling(*tile)
    mapping = Mapping(
        warps=_warps(tile[0], tile[0] * (tile[1] + problem.head_dim)),
        buffers=(("Q", 1), ("K", 1), ("V", 1), ("O", 1)),
        wait_before=(("V", "O"),),
        operands_in_registers=("O",),
    )
    return Plan("flash1", None, flash1.kernels(problem, tiling, mapping), tile)


def _flash2(problem: Attention, gpu: Gpu, tile: Tile | None) -> Plan:
    if tile is None:
        compiled = flash_attn_2.kernel_head_dim(problem.head_dim)
        if compiled is None:
            tile = (64, 32)
        else:
            tile = flash_attn_2.tile_of(gpu.architecture, compiled, problem.causal)[:2]
    warps = _warps(tile[0], tile[0] * (tile[1] + problem.head_dim))
    kernels = flash2.kernels(problem, Tiling(*tile, descending=True), flash_attn_2.mapping(warps))
    return Plan("flash2", None, kernels, tile)


def _flash_attn_2(problem: Attention, gpu: Gpu, tile: Tile | None) -> Plan:
    compiled = flash_attn_2.kernel_head_dim(problem.head_dim)
    assert compiled is not None  # checked before
    tile_m, tile_n, warps = flash_attn_2.tile_of(gpu.architecture, compiled, problem.causal)
    if tile is not None:
        tile_m, tile_n = tile
    tiling = Tiling(tile_m, tile_n, descending=True)
    kernels = flash2.kernels(problem, tiling, flash_attn_2.mapping(warps), compiled)
    assumptions = ()
    if compiled != problem.head_dim:
        assumptions = (f"head_dim {problem.head_dim} runs in the kernel compiled for {compiled}",)
    return Plan("flash2", "flash-attn-2", kernels, (tile_m, tile_n), assumptions)


def _warps(rows: int, accumulated: int) -> int:
    """Four warps, or eight where four could not hold the accumulators; 16 rows a warp at least."""
    wanted = 4 if accumulated // 128 <= 192 else 8
    return max(1, min(wanted, rows // 16))


def _forward_only(problem: Attention, gpu: Gpu) -> str | None:
    if problem.direction != "forward":
        return f"direction {problem.direction} is not written for it yet; forward is"
    if gpu.tensor_core.flops_per_clock[TENSOR_DTYPE[problem.dtype]] is None:
        return f"{gpu.name} has no tensor cores for {problem.dtype}"
    return None


def _check_flash_attn_2(problem: Attention, gpu: Gpu) -> str | None:
    if problem.dtype not in flash_attn_2.DTYPES:
        return f"it takes {' and '.join(flash_attn_2.DTYPES)}, not {problem.dtype}"
    if flash_attn_2.kernel_head_dim(problem.head_dim) is None:
        return f"it takes head_dim up to {flash_attn_2.HEAD_DIMS[-1]}, not {problem.head_dim}"
    return _forward_only(problem, gpu)


SCHEDULES = {
    entry.name: entry
    for entry in (
        Entry(
            "standard",
            "standard",
            "three kernels, S and P in global memory",
            "textbook attention; eight matrix accesses",
            "device memory for S and P: 2 x batch x heads x seqlen_q x seqlen_k elements",
            _standard,
            _forward_only,
        ),
        Entry(
            "flash1",
            "flash1",
            "FlashAttention-1: outer loop over K/V, O re-read and re-written",
            "Dao et al. 2022, Algorithm 1",
            "shared memory for a tile of Q, K, V and O; a block a head",
            _flash1,
            _forward_only,
        ),
        Entry(
            "flash2",
            "flash2",
            "FlashAttention-2: outer loop over Q, O written once",
            "Dao 2023, Algorithm 1",
            "shared memory for a tile of Q, K and V; a block a row tile",
            _flash2,
            _forward_only,
        ),
    )
}
IMPLEMENTATIONS = {
    entry.name: entry
    for entry in (
        Entry(
            "flash-attn-2",
            "flash2",
            "the flash-attn package, versions 2.x",
            flash_attn_2.SOURCE,
            "fp16 or bf16, head_dim up to 256",
            _flash_attn_2,
            _check_flash_attn_2,
        ),
        Entry(
            "pytorch",
            "standard",
            "eager PyTorch: copies, baddbmm, mask, softmax, bmm",
            pytorch.SOURCE,
            "as standard",
            _pytorch,
            _forward_only,
        ),
    )
}


def find(name: str, entries: dict[str, Entry], kind: str) -> Entry:
    """The entry of that name.

    Raises:
        Refused: there is none; the message names the closest and all there are.
    """
    if name in entries:
        return entries[name]
    close = difflib.get_close_matches(name, entries, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise Refused(name, f"unknown {kind}; {hint}there are {', '.join(entries)}")


def plan(
    problem: Attention,
    gpu: Gpu,
    schedule: str | None = None,
    implementation: str | None = None,
    tile: Tile | None = None,
) -> Plan:
    """The kernels that a schedule, or an implementation where one is given, makes of a problem.

    Raises:
        Refused: an unknown name, a problem or GPU it does not take, a tile that does not fit
            an SM; the message says what was asked, what there is, what would work.
    """
    if implementation is not None:
        entry = find(implementation, IMPLEMENTATIONS, "implementation")
        if schedule is not None and schedule != entry.schedule:
            find(schedule, SCHEDULES, "schedule")
            raise Refused(implementation, f"its schedule is {entry.schedule}, not {schedule}")
    else:
        entry = find(schedule or "flash2", SCHEDULES, "schedule")
    reason = entry.check(problem, gpu)
    if reason is not None:
        raise Refused(entry.name, reason)
    planned = entry.build(problem, gpu, tile)
    _check_fit(entry, planned, problem, gpu)
    return planned


def _overflow(planned: Plan, gpu: Gpu) -> str | None:
    """What of a plan does not fit an SM, in words."""
    for kernel in planned.kernels:
        use = block_use(record(kernel))
        available = gpu.shared_memory.max_block_bytes
        if use.shared_memory_bytes > available:
            return (
                f"needs {use.shared_memory_bytes / 1024:.1f} KiB of shared memory a block, "
                f"{gpu.name} has {available / 1024:.0f} KiB"
            )
        if residency(use, gpu).blocks_per_sm < 1:
            return f"does not fit an SM of {gpu.name}: {residency(use, gpu).limiter}"
    return None


def _check_fit(entry: Entry, planned: Plan, problem: Attention, gpu: Gpu) -> None:
    fault = _overflow(planned, gpu)
    if fault is None:
        return
    rows, columns = planned.tile
    for smaller_rows in [r for r in (rows, 128, 64, 32, 16) if r <= rows]:
        for smaller_columns in range(columns, 15, -16):
            smaller = (smaller_rows, smaller_columns)
            if _overflow(entry.build(problem, gpu, smaller), gpu) is None:
                largest = f"the largest that fits is {smaller_rows}x{smaller_columns}"
                raise Refused(entry.name, f"tile {rows}x{columns} {fault}; {largest}")
    raise Refused(entry.name, f"tile {rows}x{columns} {fault}; no tile fits this head_dim")
