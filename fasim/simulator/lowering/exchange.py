"""What warps that share a row, or a sum, tell each other: through shared memory, behind a barrier.

Warps that divide a tile's columns have a part of each row's maximum or sum. Where they divide the
side that a product contracts, and its left operand stays in their registers, each has a partial
product: FlashAttention-1 "splits K" (Dao 2023, section 3.3) and adds up all of O this way.
"""

from __future__ import annotations

from fasim.hardware.gpu import WARP
from fasim.simulator.lowering.emitter import Emitter
from fasim.simulator.lowering.instructions import COPY_BYTES, Arithmetic
from fasim.simulator.stream import Item

# SHFL passes through shared memory's crossbar: 32 lanes a cycle and SM, as loads of four bytes
# (CUDA C++ Programming Guide, table of arithmetic throughput, quoted from memory: another
# account gives half that rate).
SHUFFLE_BYTES = 4 * WARP
QUAD = 4  # threads that share a row of an accumulator
QUAD_SHUFFLES = 2  # exchanges that combine what they have of it
# An accumulator's two neighbours in a row leave together (STS.64); a thread reads back four
# (LDS.128).
PARTIAL_STORE_BYTES = 8
PARTIAL_BYTES = 4  # FP32


def combine_quad(
    emitter: Emitter, values: float, pipe: Arithmetic, needs: list[int], name: str
) -> list[int]:
    """Combines each row's values over the four lanes that share it: two exchanges.

    Args:
        values: rows of a thread.
        pipe: combines two values.
    """
    for _ in range(QUAD_SHUFFLES):
        exchanged = values * SHUFFLE_BYTES
        shuffle = emitter.shared_memory(exchanged, values, needs=needs, name="shuffle")
        needs = [emitter.arithmetic(pipe, values, needs=[shuffle], name=name)]
    return needs


def exchange_rows(
    emitter: Emitter, values: float, warps: int, pipe: Arithmetic, needs: list[int]
) -> list[int]:
    """Combines each row's value over the warps that share it.

    The lanes of a quad read a warp's value each, and combine them as they did their own.

    Args:
        values: rows of a thread.
        warps: that share a row.
        pipe: combines two values.
    """
    stored = emitter.shared_memory(values * SHUFFLE_BYTES, values, needs=needs, name="row store")
    joined = emitter.append(Item("barrier", 1, 0, needs=((stored, 0),)))
    each = -(-warps // QUAD)
    loaded = emitter.shared_memory(
        values * each * SHUFFLE_BYTES, values * each, needs=[joined], name="row load"
    )
    last = [loaded]
    if each > 1:
        combined = values * (each - 1)
        last = [emitter.arithmetic(pipe, combined, needs=last, name="row combine")]
    return combine_quad(emitter, values, pipe, last, "row combine")


def add_partials(emitter: Emitter, elements: int, warps: int, needs: list[int]) -> int:
    """Adds up partial products; returns the item after which each warp has its share of the sum.

    Args:
        elements: of the whole product; each warp has a partial one of as many.
        warps: that have one.
    """
    moved = elements * PARTIAL_BYTES
    stores, loads = moved / (WARP * PARTIAL_STORE_BYTES), moved / (WARP * COPY_BYTES)
    stored = emitter.shared_memory(moved, stores, needs=needs, name="partial store")
    joined = emitter.append(Item("barrier", 1, 0, needs=((stored, 0),)))
    loaded = emitter.shared_memory(moved, loads, needs=[joined], name="partial load")
    added = elements / (WARP * warps) * (warps - 1)
    return emitter.arithmetic("fp32", added, needs=[loaded], name="partial sum")
