"""The order in which blocks begin, where a kernel does not leave it to the grid."""

from __future__ import annotations

from fasim.schedules.language import Kernel
from fasim.simulator.trips import GridTrips


def longest_first(trips: GridTrips, kernel: Kernel) -> GridTrips:
    """Section by section of heads: all of their longest blocks, then the next shorter.

    The long blocks of a short grid so begin first and its tail is short, while what the
    heads of a section walk stays in L2.

    Args:
        trips: of the blocks of one head, or of a few, in grid order.
    """
    section = _section(trips.repeats, _heads_in_section(kernel))
    ordered = sorted(trips.pattern, key=lambda block: -block.total)
    pattern = tuple(block for block in ordered for _ in range(section))
    return GridTrips(pattern, trips.repeats // section)


def _heads_in_section(kernel: Kernel) -> int:
    """Query heads whose walked matrices fill the mapping's `section_bytes`: a power of two of them.

    Those are K and V where blocks are tiles of queries; Q, dO and the sums of dQ where they are
    tiles of keys.
    """
    own = {"q", "k"} & set(kernel.grid)
    walked = [t for t in kernel.tensors if "d" in t.axes and not own & set(t.axes)]
    by_group = all("kv_head" in tensor.axes for tensor in walked)
    heads = kernel.lengths["batch"] * kernel.lengths["kv_head" if by_group else "head"]
    head_bytes = sum(tensor.bytes(kernel.lengths) for tensor in walked) // heads
    fitting = kernel.mapping.section_bytes // max(1, head_bytes)
    power = 1 << (fitting.bit_length() - 1) if fitting else 1
    return power * (kernel.problem.group if by_group else 1)


def _section(heads: int, most: int) -> int:
    """The largest number of heads, up to `most`, that divides all of them."""
    return next(size for size in range(min(heads, most), 0, -1) if heads % size == 0)
