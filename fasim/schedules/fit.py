"""Whether the blocks of a plan fit an SM, and the largest tile whose blocks do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules.plan import Entry, Options, Plan, Refused, Tile
from fasim.schedules.record import Record, cached_record, record
from fasim.schedules.residency import block_use, residency

if TYPE_CHECKING:
    from fasim.hardware import Gpu

# Rows of Q, and most rows of K/V, that are tried in search of a tile that fits.
ROWS = (256, 128, 64, 32, 16)
MAX_COLUMNS = 2048


def overflow(plan: Plan, gpu: Gpu) -> str | None:
    """What of a plan does not fit an SM, in words; None where all of it does."""
    return next(filter(None, (_fault(cached_record(k), gpu) for k in plan.kernels)), None)


def largest_fit(
    entry: Entry, problem: Attention, gpu: Gpu, options: Options, tile: Tile
) -> Plan | None:
    """The plan with the largest tile inside `tile` that fits, by area; None if none does."""
    rows, columns = tile
    candidates = [
        (fewer_rows, fewer_columns)
        for fewer_rows in sorted({rows, *(r for r in ROWS if r < rows)}, reverse=True)
        for fewer_columns in range(min(columns, MAX_COLUMNS), 15, -16)
    ]
    for candidate in sorted(candidates, key=lambda t: t[0] * t[1], reverse=True):
        try:
            plan = entry.build(problem, gpu, replace(options, tile=candidate))
        except Refused:
            continue  # no tile of this schedule
        if all(_fault(record(kernel), gpu) is None for kernel in plan.kernels):
            return plan
    return None


def _fault(recorded: Record, gpu: Gpu) -> str | None:
    use = block_use(recorded)
    available = gpu.shared_memory.max_block_bytes
    if use.shared_memory_bytes > available:
        return (
            f"needs {use.shared_memory_bytes / 1024:.1f} KiB of shared memory a block, "
            f"{gpu.name} has {available / 1024:.0f} KiB"
        )
    held = residency(use, gpu)
    if held.blocks_per_sm < 1:
        return f"needs more {held.limiter} than an SM of {gpu.name} has"
    return None
