"""The kernels that cuBLAS has to choose from for one matrix product.

Its choice is closed: what runs is taken to be the best of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

from fasim.problem import TENSOR_DTYPE
from fasim.schedules.implementations import cublas
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Tile
from fasim.schedules.standard import Gemm

if TYPE_CHECKING:
    from fasim.hardware import Gpu
    from fasim.operators import Operator

# Tiles in the names of its kernels, and the bytes of the contracted side a step takes: mma.sync
# (`ampere_fp16_s16816gemm_fp16_128x128_ldg8_f2f_stages_32x5`, `…_64x3`: elements of two bytes; the
# shorter step leaves room for a second block on the SM).
TILES = (
    (256, 128),
    (128, 256),
    (128, 128),
    (256, 64),
    (64, 256),
    (128, 64),
    (64, 128),
    (64, 64),
    (32, 128),
)
# wgmma: `nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT` says tile, step x stages and cluster. That the
# kernels are persistent is read from their grids, one block an SM (unverified).
WGMMA_TILES = (
    (128, 256),
    (256, 128),
    (128, 128),
    (64, 256),
    (128, 64),
    (64, 128),
    (64, 64),
)
SHORT_STEP_BYTES, LONG_STEP_BYTES = 64, 128
WGMMA_SOURCE = "cuBLAS 12 kernel names (nvjet) in public traces (unverified)"
CLUSTER = 2
# Buffers of each operand: four in most names.
MOST_STAGES, LEAST_STAGES = 4, 2
MOST_SPLITS = 8
LEAST_SPLIT_STEPS = 4  # as many as fill the buffers
SPLIT_SAVES = 0.1  # of the steps, or a second kernel is not worth its launch
PARTIAL_BYTES = 4  # FP32, written by one kernel and read by the next
ALIGNED_BYTES = 16  # of a row: what cp.async copies at most, and TMA asks for


@dataclass(frozen=True)
class Candidate:
    """A kernel cuBLAS may run.

    Attributes:
        splits: parts of the contracted side that have blocks of their own (split-K).
        least_s: no run is faster: the products of the SM that gets most blocks, or the bytes of
            their operands through its port to L2, and partial sums through all ports; at the
            highest clock that products reach.
    """

    gemm: Gemm
    splits: int
    least_s: float


def alignment_bytes(operator: Operator) -> int:
    """What the rows of A, B and C start at multiples of, 16 at most."""
    rows = (operator.depth, operator.columns)
    aligned = ALIGNED_BYTES
    while any(row * operator.element_bytes % aligned for row in rows):
        aligned //= 2
    return aligned


def candidates(operator: Operator, gpu: Gpu) -> list[Candidate]:
    """What may run, the one that could be fastest first.

    A split is one of them where it gives the SM with most blocks less to do.
    """
    found = []
    results = operator.rows * operator.columns * operator.batch
    hz = gpu.clock.tensor_hz if operator.dtype != "fp32" else gpu.clock.boost_hz
    ports = (gpu.l2.read_bytes_per_clock_per_sm, gpu.l2.write_bytes_per_clock_per_sm)
    sums = results * PARTIAL_BYTES * sum(1 / port for port in ports) / gpu.sm_count
    for gemm, sharing in _kernels(operator, gpu):
        tiles = -(-operator.rows // gemm.tile_m) * -(-operator.columns // gemm.tile_n)
        steps = -(-operator.depth // gemm.k_step)
        step_cycles = _step_cycles(operator, gemm, gpu)
        least = math.inf
        for splits in range(1, MOST_SPLITS + 1):
            part = -(-steps // splits)
            blocks = tiles * operator.batch * splits
            each = _most_steps(blocks, part, tiles * operator.batch * steps, gpu.sm_count)
            if splits > 1 and (part < LEAST_SPLIT_STEPS or each > (1 - SPLIT_SAVES) * least):
                continue
            least = each
            if sharing > 1 and blocks <= gpu.sm_count:
                continue  # no SM gets a second block: deeper buffers serve better
            cycles = each * step_cycles + (splits * sums if splits > 1 else 0)
            found.append(Candidate(gemm, splits, cycles / hz))
    return sorted(found, key=lambda candidate: candidate.least_s)


def _most_steps(blocks: int, part: int, steps: int, sm_count: int) -> float:
    """Steps of the SM that gets most, at least: of equal blocks a whole number, else the mean.

    Args:
        part: steps of the longest block.
        steps: of all blocks.
    """
    if blocks * part == steps:
        return -(-blocks // sm_count) * part
    return max(part, steps / sm_count)


def _step_cycles(operator: Operator, gemm: Gemm, gpu: Gpu) -> float:
    """The least an SM needs for a step of one block: its products, its operands."""
    mapping = gemm.mapping
    if mapping.matrix_unit == "ffma":
        rate = 2.0 * gpu.fp32.lanes
    else:
        tensor = gpu.tensor_core.flops_per_clock[TENSOR_DTYPE[operator.stored_dtype]]
        assert tensor is not None  # the plan refuses dtypes without tensor cores
        whole = mapping.matrix_unit == "wgmma"
        rate = tensor * (1.0 if whole else gpu.tensor_core.mma_sync_fraction)
    rows = gemm.tile_m / mapping.multicast_count("A") + gemm.tile_n / mapping.multicast_count("B")
    moved = rows * gemm.k_step * operator.element_bytes
    return max(
        2 * gemm.tile_m * gemm.tile_n * gemm.k_step / rate,
        moved / gpu.l2.read_bytes_per_clock_per_sm,
    )


def _kernels(operator: Operator, gpu: Gpu) -> Iterator[tuple[Gemm, int]]:
    """Kernels, and the blocks that their stages leave room for on an SM.

    Two blocks hide each other's prologue and epilogue.
    """
    aligned = alignment_bytes(operator)
    kinds: list[tuple[Mapping, Tile, int, int]] = []
    if operator.dtype == "fp32":
        yield cublas.sgemm(), 1
    elif "wgmma" in gpu.features and aligned == ALIGNED_BYTES:
        for tile, sharing in product(WGMMA_TILES, (1, 2)):
            kinds.append((_wgmma(tile), tile, LONG_STEP_BYTES, sharing))
    else:  # also where rows are not aligned as TMA asks
        for tile in TILES:
            mapping = replace(_mma_sync(tile), copy_bytes=aligned)
            kinds.append((mapping, tile, LONG_STEP_BYTES, 1))
            kinds.append((mapping, tile, SHORT_STEP_BYTES, 2))
    memory = gpu.shared_memory
    for mapping, tile, step_bytes, sharing in kinds:
        room = memory.capacity_bytes // sharing - memory.reserved_block_bytes
        stages = min(MOST_STAGES, min(room, memory.max_block_bytes) // (sum(tile) * step_bytes))
        if stages >= LEAST_STAGES:
            yield Gemm(*tile, step_bytes // operator.element_bytes, stages, mapping), sharing


def _wgmma(tile: Tile) -> Mapping:
    """A warpgroup for 64 or 128 rows, and one that fetches.

    Two blocks make a cluster along the narrower side, and share the wider operand.
    """
    rows, columns = tile
    warps = 4 if rows == 64 else 8
    return Mapping(
        warps,
        "wgmma",
        "tma",
        producer_warps=4,
        multicast=(("A" if rows > columns else "B", CLUSTER),),
        persistent=True,
        source=WGMMA_SOURCE,
    )


def _mma_sync(tile: Tile) -> Mapping:
    """Warps over rows and columns so that each reads the fewest fragments."""
    warps = 8 if tile[0] * tile[1] > 128 * 128 else 4
    grids = [(down, warps // down) for down in (1, 2, 4, 8) if warps % down == 0]
    grid = min(grids, key=lambda each: tile[0] / each[0] + tile[1] / each[1])
    return Mapping(warps, "mma.sync", "cp.async", warp_grid=grid, source=cublas.SOURCE)
