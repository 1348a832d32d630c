"""The work of a kernel as the GPU simulation sees it: blocks in classes, in issue order.

Everything is an integer. A tick is one picosecond; trips count in 1/1024 of an iteration, as
a masked iteration can cost 1.1 of an unmasked one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

TICKS_PER_SECOND = 10**12
TRIP_UNITS = 1024

Charges = tuple[tuple[str, int], ...]
"""What a stretch of time is charged with: (cause, ticks) in order, such as ("dram", 700)."""


class WorkError(ValueError):
    """Work no GPU can be given; the message names the field and the value."""


@dataclass(frozen=True, slots=True)
class LoopRate:
    """How fast the blocks resident on one SM run their main loop.

    Attributes:
        period_ticks: entry r-1 is T(r), the ticks in which r computing blocks each do one
            iteration. A computing block advances 1/T(r) iterations per tick.
        charges: entry r-1 says what one block's slot is charged with during T(r).

    Raises:
        WorkError: a period below one tick, or charges that do not sum to their period.
    """

    period_ticks: tuple[int, ...]
    charges: tuple[Charges, ...]

    def __post_init__(self) -> None:
        if not self.period_ticks or len(self.period_ticks) != len(self.charges):
            raise WorkError(
                f"{len(self.period_ticks)} periods and {len(self.charges)} lists of charges; "
                "a loop rate needs one of each for every number of computing blocks"
            )
        for blocks, (period, charges) in enumerate(
            zip(self.period_ticks, self.charges, strict=True), start=1
        ):
            if period < 1:
                raise WorkError(f"T({blocks}) is {period}; an iteration takes 1 tick or more")
            _check_charges(f"charges of T({blocks})", charges)
            if ticks_of(charges) != period:
                raise WorkError(
                    f"the charges of T({blocks}) sum to {ticks_of(charges)}, not to {period}"
                )


@dataclass(frozen=True, slots=True)
class BlockClass:
    """Thread blocks that do the same: prologue, main loop, epilogue.

    Attributes:
        prologue, epilogue: fixed latency, by cause.
        prologue_dram_bytes: requested as the prologue starts; it ends when they are here.
        loop: the rate of the main loop; None for a block without one.
        trips: length of the loop in 1/1024 iteration.
        loop_dram_bytes: loaded in equal chunks along the loop.
        epilogue_dram_bytes: written as the epilogue starts; the slot is free when they are out.

    Raises:
        WorkError: a negative amount, or trips or loop bytes without a loop.
    """

    name: str
    prologue: Charges = ()
    prologue_dram_bytes: int = 0
    loop: LoopRate | None = None
    trips: int = 0
    loop_dram_bytes: int = 0
    epilogue: Charges = ()
    epilogue_dram_bytes: int = 0

    def __post_init__(self) -> None:
        for name in ("prologue_dram_bytes", "trips", "loop_dram_bytes", "epilogue_dram_bytes"):
            if getattr(self, name) < 0:
                raise WorkError(f"{name} of class {self.name!r} is {getattr(self, name)}")
        _check_charges(f"prologue of class {self.name!r}", self.prologue)
        _check_charges(f"epilogue of class {self.name!r}", self.epilogue)
        if self.trips and self.loop is None:
            raise WorkError(f"class {self.name!r} has {self.trips} trips and no loop rate")
        if self.loop_dram_bytes and not self.trips:
            raise WorkError(
                f"class {self.name!r} loads {self.loop_dram_bytes} bytes in a loop of no trips"
            )


@dataclass(frozen=True, slots=True)
class KernelWork:
    """One launch: block classes, the order in which blocks issue, and the machine they get.

    Attributes:
        pattern: class index of each block in issue order; the grid is `repeats` patterns,
            for example one per batch and head.
        dram_bandwidth_bytes_per_s: what DRAM achieves, reads and writes together.
        launch_ticks: passes before the first block; every slot is charged with it.
        loop_chunks: into how many requests a block's loop loads are split.

    Raises:
        WorkError: an empty grid or machine, an unknown class index, or a loop rate that does
            not go up to `blocks_per_sm` computing blocks.
    """

    name: str
    classes: tuple[BlockClass, ...]
    pattern: tuple[int, ...]
    repeats: int
    sm_count: int
    blocks_per_sm: int
    dram_bandwidth_bytes_per_s: int
    launch_ticks: int = 0
    loop_chunks: int = 4

    def __post_init__(self) -> None:
        for name in (
            "repeats",
            "sm_count",
            "blocks_per_sm",
            "dram_bandwidth_bytes_per_s",
            "loop_chunks",
        ):
            if getattr(self, name) < 1:
                raise WorkError(f"{name} of {self.name!r} is {getattr(self, name)}, not 1 or more")
        if self.launch_ticks < 0:
            raise WorkError(f"launch_ticks of {self.name!r} is {self.launch_ticks}")
        if not self.pattern:
            raise WorkError(f"{self.name!r} has no blocks: its pattern is empty")
        if min(self.pattern) < 0 or max(self.pattern) >= len(self.classes):
            raise WorkError(
                f"the pattern of {self.name!r} names classes {min(self.pattern)} to "
                f"{max(self.pattern)}; there are {len(self.classes)}, counted from 0"
            )
        for block_class in self.classes:
            if block_class.loop and len(block_class.loop.period_ticks) < self.blocks_per_sm:
                raise WorkError(
                    f"class {block_class.name!r} has loop periods for up to "
                    f"{len(block_class.loop.period_ticks)} computing blocks; "
                    f"{self.name!r} has {self.blocks_per_sm} blocks per SM"
                )

    @property
    def blocks(self) -> int:
        """Thread blocks of the grid."""
        return len(self.pattern) * self.repeats

    @property
    def slots(self) -> int:
        """Blocks the GPU holds at once."""
        return self.sm_count * self.blocks_per_sm

    @property
    def waves(self) -> float:
        """How many times the grid fills the GPU; 2.25 leaves most of the last wave empty."""
        return self.blocks / self.slots

    def dram_ticks(self, transfer_bytes: int) -> int:
        """Ticks for which a transfer holds the DRAM channel, rounded up."""
        return -(-transfer_bytes * TICKS_PER_SECOND // self.dram_bandwidth_bytes_per_s)


def ticks_of(charges: Charges) -> int:
    """Ticks of all charges together."""
    return sum(ticks for _, ticks in charges)


def add_charges(totals: dict[str, int], charges: Charges, times: int = 1) -> None:
    """Charge `totals` with `charges`, `times` over."""
    for cause, ticks in charges:
        if ticks and times:
            totals[cause] = totals.get(cause, 0) + ticks * times


def add_along(totals: dict[str, int], charges: Charges, ticks: int) -> None:
    """Charge `totals` with `ticks` of walking along `charges` again and again.

    Full periods plus a prefix of one: what was charged always sums to `ticks`.
    """
    periods, rest = divmod(ticks, ticks_of(charges))
    add_charges(totals, charges, periods)
    for cause, length in charges:
        taken = min(length, rest)
        add_charges(totals, ((cause, taken),))
        rest -= taken


def split_evenly(total: int, parts: int) -> list[int]:
    """`total` in `parts` whole numbers that differ by one at most and sum to it."""
    edges = [total * part // parts for part in range(parts + 1)]
    return [end - start for start, end in pairwise(edges)]


def _check_charges(what: str, charges: Sequence[tuple[str, int]]) -> None:
    for cause, ticks in charges:
        if ticks < 0:
            raise WorkError(f"the {what} charge {cause!r} with {ticks} ticks")
