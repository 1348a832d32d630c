"""Local memory: what a kernel's spilled registers move."""

from __future__ import annotations

from fasim.readings.counting import Counter
from fasim.schedules.record import Record
from fasim.schedules.residency import REGISTER_BYTES, block_use


def local_bytes(record: Record) -> int:
    """Bytes of local-memory traffic of all blocks: every spilled register out and in again.

    Those of the main loop come and go in every iteration of the loop with most products; what
    else is spilled, once a block.
    """
    use = block_use(record)
    if not use.spilled_registers:
        return 0
    counter = Counter(record)
    products = [op for op in record.once() if op.kind == "matmul"]
    iterations = max(map(counter.executions, products), default=0)
    once = (use.spilled_registers - use.spilled_in_loop) * record.kernel.blocks
    moved = once + use.spilled_in_loop * iterations
    return 2 * REGISTER_BYTES * use.threads * moved
