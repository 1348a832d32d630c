"""The catalogue: every schedule and implementation by name, what it needs, how it is planned."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import TYPE_CHECKING

from fasim.problem import DTYPE_BYTES, TENSOR_DTYPE, Attention
from fasim.schedules import flash1, flash2, standard
from fasim.schedules.fit import largest_fit, overflow
from fasim.schedules.implementations import cublas, flash_attn_2, pytorch
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Entry, Plan, Refused, Tile
from fasim.schedules.tiling import Tiling

if TYPE_CHECKING:
    from fasim.hardware import Gpu


def _standard(problem: Attention, gpu: Gpu, tile: Tile | None) -> Plan:
    gemm = cublas.gemm(gpu, problem.dtype, tile)
    warps, rows_per_block = pytorch.softmax_block(problem.seqlen_k)
    rows = Mapping(warps, matrix_unit="none", copy_unit="registers")
    kernels = standard.kernels(problem, gemm, rows, rows_per_block)
    return Plan("standard", None, kernels, (gemm.tile_m, gemm.tile_n))


def _pytorch(problem: Attention, gpu: Gpu, tile: Tile | None) -> Plan:
    gemm = cublas.gemm(gpu, problem.dtype, tile)
    kernels = pytorch.kernels(problem, gemm)
    return Plan("standard", "pytorch", kernels, (gemm.tile_m, gemm.tile_n))


def _flash1(problem: Attention, gpu: Gpu, tile: Tile | None) -> Plan:
    if tile is None:
        elements = gpu.shared_memory.max_block_bytes // problem.element_bytes
        tile = flash1.paper_tile(elements, problem.head_dim)
    mapping = Mapping(
        warps=_warps(tile, problem.head_dim),
        buffers=(("Q", 1), ("K", 1), ("V", 1), ("O", 1)),
        wait_before=(("V", "O"),),
        operands_in_registers=("O",),
    )
    return Plan("flash1", None, flash1.kernels(problem, Tiling(*tile), mapping), tile)


def _flash2(problem: Attention, gpu: Gpu, tile: Tile | None) -> Plan:
    if tile is None:
        compiled = flash_attn_2.kernel_head_dim(problem.head_dim)
        if compiled is None:
            tile = (64, 64)
        else:
            tile = flash_attn_2.tile_of(gpu, compiled, problem.causal)[:2]
    mapping = flash_attn_2.mapping(_warps(tile, problem.head_dim))
    kernels = flash2.kernels(problem, Tiling(*tile, descending=True), mapping)
    return Plan("flash2", None, kernels, tile)


def _flash_attn_2(problem: Attention, gpu: Gpu, tile: Tile | None) -> Plan:
    compiled = flash_attn_2.kernel_head_dim(problem.head_dim)
    assert compiled is not None  # checked before
    tile_m, tile_n, warps = flash_attn_2.tile_of(gpu, compiled, problem.causal)
    if tile is not None:
        tile_m, tile_n = tile
        warps = _warps(tile, compiled)
    tiling = Tiling(tile_m, tile_n, descending=True)
    kernels = flash2.kernels(problem, tiling, flash_attn_2.mapping(warps), compiled)
    assumptions: tuple[str, ...] = ()
    if compiled != problem.head_dim:
        assumptions = (f"head_dim {problem.head_dim} runs in the kernel compiled for {compiled}",)
    return Plan("flash2", "flash-attn-2", kernels, (tile_m, tile_n), assumptions)


def _warps(tile: Tile, head_dim: int) -> int:
    """Four warps, or eight where four could not hold the accumulators; 16 rows a warp at least."""
    rows, columns = tile
    accumulators_per_thread = rows * (columns + head_dim) // 128
    wanted = 4 if accumulators_per_thread <= 192 else 8
    return max(1, min(wanted, rows // 16))


def _check(problem: Attention, gpu: Gpu) -> str | None:
    if problem.direction != "forward":
        return f"direction is {problem.direction}; it runs forward"
    rates = gpu.tensor_core.flops_per_clock
    if rates[TENSOR_DTYPE[problem.dtype]] is None:
        taken = [dtype for dtype in DTYPE_BYTES if rates[TENSOR_DTYPE[dtype]] is not None]
        return f"{gpu.name} has no tensor cores for {problem.dtype}, only {_listed(taken)}"
    return None


def _check_pytorch(problem: Attention, gpu: Gpu) -> str | None:
    if problem.dtype not in pytorch.DTYPES:
        return f"it takes {_listed(pytorch.DTYPES)}, not {problem.dtype}"
    return _check(problem, gpu)


def _check_flash_attn_2(problem: Attention, gpu: Gpu) -> str | None:
    if problem.dtype not in flash_attn_2.DTYPES:
        return f"it takes {_listed(flash_attn_2.DTYPES)}, not {problem.dtype}"
    if flash_attn_2.kernel_head_dim(problem.head_dim) is None:
        return f"it takes head_dim up to {flash_attn_2.HEAD_DIMS[-1]}, not {problem.head_dim}"
    return _check(problem, gpu)


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


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
            _check,
        ),
        Entry(
            "flash1",
            "flash1",
            "FlashAttention-1: outer loop over K/V, O re-read and re-written",
            "Dao et al. 2022, Algorithm 1",
            "shared memory for a tile of Q, K, V and O; a block a head",
            _flash1,
            _check,
        ),
        Entry(
            "flash2",
            "flash2",
            "FlashAttention-2: outer loop over Q, O written once",
            "Dao 2023, Algorithm 1",
            "shared memory for a tile of Q, K and V; a block a row tile",
            _flash2,
            _check,
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
            "fp32, fp16 or bf16; device memory as standard, and for copies of Q, K, V and O",
            _pytorch,
            _check_pytorch,
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

    A schedule whose usual tile does not fit takes the largest inside it that does, and says so;
    a tile that was asked for, or that an implementation prescribes, is refused.

    Args:
        schedule: flash2 where neither it nor an implementation is given.
        tile: rows of Q × rows of K/V; the usual one of the schedule where not given.

    Raises:
        Refused: an unknown name, a problem or GPU it does not take, a tile that does not fit
            an SM; the message says what was asked, what there is, what would work.
        ProblemError: the sides of the tile are not positive multiples of 16.
    """
    if implementation is not None:
        entry = find(implementation, IMPLEMENTATIONS, "implementation")
        if schedule is not None and schedule != entry.schedule:
            find(schedule, SCHEDULES, "schedule")
            raise Refused(implementation, f"its schedule is {entry.schedule}, not {schedule}")
    else:
        entry = find(schedule or "flash2", SCHEDULES, "schedule")
    if tile is not None:
        Tiling(*tile)  # refuses impossible sides, for GEMMs too
    reason = entry.check(problem, gpu)
    if reason is not None:
        raise Refused(entry.name, reason)
    planned = entry.build(problem, gpu, tile)
    fault = overflow(planned, gpu)
    if fault is None:
        return planned
    asked = f"tile {planned.tile[0]}x{planned.tile[1]} {fault}"
    fitting = largest_fit(entry, problem, gpu, planned.tile)
    if fitting is None:
        raise Refused(entry.name, f"{asked}; no tile fits head_dim {problem.head_dim}")
    largest = f"{fitting.tile[0]}x{fitting.tile[1]}"
    if tile is not None or implementation is not None:
        raise Refused(entry.name, f"{asked}; the largest that fits is {largest}")
    return replace(fitting, assumptions=(*fitting.assumptions, f"{asked}; {largest} instead"))
