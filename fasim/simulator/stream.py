"""Instruction streams: what one warp issues in one loop iteration, and which warps of a block do.

A stream is what lowering makes of a program and what the SM engine runs. It says nothing about
a GPU beyond the cycles its items carry, and nothing about a schedule at all.
"""

from __future__ import annotations

from dataclasses import dataclass

#: The pipes of an SM that a scheduler issues to. Where a block keeps several of them busy in one
#: cycle, the cycle is charged to the first in this order.
PIPES = ("tensor", "sfu", "fp32", "alu", "shared_memory", "copy", "global", "barrier", "wait")


@dataclass(frozen=True, slots=True)
class Barrier:
    """A named barrier between the roles of a block.

    Its `participants`-th arrival releases every warp that waits at it, and it starts anew. A
    barrier item waits (`bar.sync`); an asynchronous one only arrives (`bar.arrive`). The
    ping-pong of two warpgroups is one such barrier for each, on which it waits and the other
    arrives.

    Attributes:
        participants: arrivals that release it, in warps of this scheduler.
        arrived: arrivals made before the first iteration, fewer than `participants`; they
            decide whose turn it is.
    """

    name: str
    participants: int
    arrived: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.arrived < self.participants:
            raise ValueError(
                f"barrier {self.name!r}: arrived is {self.arrived} of {self.participants} "
                "participants; it must be 0 or more and fewer than the participants"
            )


def latency_left(latency_cycles: float, pipe_cycles: float) -> int:
    """What is left of a latency when an instruction leaves its pipe: an `Item` counts from there.

    Args:
        latency_cycles: from issue to use, as profiles have it: a measured chain of dependent
            instructions, each with its own time in the pipe.
        pipe_cycles: that one instruction occupies the pipe.
    """
    return max(0, round(latency_cycles - pipe_cycles))


@dataclass(frozen=True, slots=True)
class Item:
    """A group of like instructions of one warp, issued back to back to one pipe.

    Attributes:
        pipe: one of `PIPES`.
        count: instructions in the group; each takes an issue slot of the scheduler.
        cycles: how long the whole group occupies the pipe. For a pipe that the schedulers of an
            SM share, as shared memory is, this scheduler's share of the rate is already in it.
        latency: cycles from leaving the pipe until the result is visible to the warp.
        needs: the results that must be visible before the group issues, as (index of the item
            in the stream, iterations back). What an iteration before the first would have made
            is visible from the start.
        asynchronous: the group waits for its pipe in a FIFO and does not hold the warp (wgmma,
            TMA). A barrier item that is asynchronous arrives and does not wait.
        cause: what a warp that waits for this result is charged to; the pipe unless given
            ("l2" or "dram" for a load).
        name: what messages and traces call it; the pipe unless given.
        barrier: the named barrier of a barrier item; without one it joins the whole block.

    Raises:
        ValueError: a pipe that does not exist, a count below 1, negative cycles, latency or
            iterations back, or a named barrier on another pipe than "barrier".
    """

    pipe: str
    count: int
    cycles: int
    latency: int = 0
    needs: tuple[tuple[int, int], ...] = ()
    asynchronous: bool = False
    cause: str = ""
    name: str = ""
    barrier: Barrier | None = None

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.pipe)
        if not self.cause:
            object.__setattr__(self, "cause", self.pipe)
        if self.pipe not in PIPES:
            raise ValueError(
                f"item {self.name!r}: pipe is {self.pipe!r}; choose from {', '.join(PIPES)}"
            )
        if self.count < 1 or self.cycles < 0 or self.latency < 0:
            raise ValueError(
                f"item {self.name!r}: count is {self.count}, cycles {self.cycles}, latency "
                f"{self.latency}; count must be 1 or more, the others 0 or more"
            )
        if any(back < 0 for _, back in self.needs):
            raise ValueError(f"item {self.name!r}: needs {self.needs} look into the future")
        if self.barrier is not None and self.pipe != "barrier":
            raise ValueError(f"item {self.name!r}: a barrier on the pipe {self.pipe!r}")


@dataclass(frozen=True, slots=True)
class Stream:
    """One iteration of one role of a block, and how many of its warps run it here.

    A block is a tuple of streams: one for an ordinary kernel, one per role for a kernel whose
    warps are specialised. Every role does one iteration in the time of one.

    Attributes:
        items: in the order in which a warp issues them, the same in every iteration.
        warps_per_scheduler: the warps of one block on one scheduler that run it. A scheduler
            has a quarter of a block's warps on the GPUs with four of them.

    Raises:
        ValueError: no items or no warps, or an item that needs one that is not in the stream or
            that the same iteration issues only later: the warp would wait for itself.
    """

    items: tuple[Item, ...]
    warps_per_scheduler: int = 1

    def __post_init__(self) -> None:
        if not self.items or self.warps_per_scheduler < 1:
            raise ValueError(
                f"a stream of {len(self.items)} items for {self.warps_per_scheduler} warps; "
                "it must have one or more of each"
            )
        for index, item in enumerate(self.items):
            for needed, back in item.needs:
                if not 0 <= needed < len(self.items):
                    raise ValueError(
                        f"item {item.name!r} needs item {needed} of a stream of {len(self.items)}"
                    )
                if back == 0 and needed >= index:
                    raise ValueError(
                        f"deadlock: item {item.name!r} (item {index}) needs "
                        f"{self.items[needed].name!r} (item {needed}) of the same iteration, "
                        "which is issued no sooner"
                    )
