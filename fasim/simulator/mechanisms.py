"""The mechanisms of the timing model, by name, and how to switch one off.

A prediction never does; validation does, to show what each mechanism is worth: what an error
becomes without it says whether the mechanism earns its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    from fasim.hardware import Gpu

BOUNDLESS = 1 << 40  # bytes of a cache, or bytes a clock of a port, that never limit


@dataclass(frozen=True, slots=True)
class Mechanism:
    """A part of the timing model that can be switched off.

    Attributes:
        does: what it models.
        without: what stands in its place when it is off.
        idealise: for a fact of the hardware, the GPU without it. A formula has none: the place
            that holds it asks `is_on`.
    """

    does: str
    without: str
    idealise: Callable[[Gpu], Gpu] | None = None


def _with(part: str, **facts: object) -> Callable[[Gpu], Gpu]:
    def idealise(gpu: Gpu) -> Gpu:
        inner: BaseModel = getattr(gpu, part)
        return gpu.model_copy(update={part: inner.model_copy(update=facts)})

    return idealise


MECHANISMS: dict[str, Mechanism] = {
    "issue-order": Mechanism(
        "warps issue in order and wait for what they need", "the widest pipe sets T(r) alone"
    ),
    "exchange": Mechanism(
        "warps that divide a row or a contraction exchange their parts", "they know them"
    ),
    "barriers": Mechanism(
        "a block barrier takes time to release its warps",
        "it takes none",
        _with("sm", barrier_cycles=0),
    ),
    "mask": Mechanism(
        "tiles that the mask cuts through, or all where a loop has one body, take its instructions",
        "they take none",
    ),
    "waves": Mechanism(
        "blocks are whole: slots stand empty at the tail", "work divides evenly over the slots"
    ),
    "phases": Mechanism(
        "a block begins and ends: latencies, first tiles, output", "it is all main loop"
    ),
    "l2-port": Mechanism(
        "an SM's port to L2 has a rate",
        "it has none",
        _with("l2", read_bytes_per_clock_per_sm=BOUNDLESS, write_bytes_per_clock_per_sm=BOUNDLESS),
    ),
    "l2-capacity": Mechanism(
        "what overflows L2 comes again from DRAM",
        "nothing does",
        _with("l2", capacity_bytes=BOUNDLESS),
    ),
    "dram-efficiency": Mechanism(
        "DRAM reaches a part of its pins' rate, less when reads and writes mix",
        "it reaches all",
        _with("dram", read_efficiency=1.0, mixed_efficiency=1.0),
    ),
    "contention": Mechanism(
        "execution and DRAM hinder each other", "the slower of the two hides the other"
    ),
    "write-bursts": Mechanism(
        "a wave writes its results at one time, and the next waits", "DRAM takes them in passing"
    ),
    "streaming-issue": Mechanism(
        "streaming kernels are bound by issue of their instructions", "memory alone binds them"
    ),
    "power": Mechanism(
        "the clock follows from the power limit",
        "the clock is the highest",
        _with("clock", sustained_tensor_hz=None),
    ),
    "launch": Mechanism(
        "every launch takes time", "it takes none", _with("launch", stream_s=0.0, graph_s=0.0)
    ),
}
"""All that can be switched off, in the order from the SM outwards."""

_off: ContextVar[frozenset[str]] = ContextVar("mechanisms switched off", default=frozenset())


class UnknownMechanism(ValueError):
    """A name that is none of `MECHANISMS`; the message lists them."""


def checked(names: Iterable[str]) -> tuple[str, ...]:
    """The names, if all of them are mechanisms.

    Raises:
        UnknownMechanism: one is none.
    """
    given = tuple(names)
    for name in given:
        if name not in MECHANISMS:
            raise UnknownMechanism(f"no mechanism {name!r}; there are {', '.join(MECHANISMS)}")
    return given


@contextmanager
def without(names: Iterable[str]) -> Iterator[None]:
    """Predicts without these mechanisms, inside the block.

    Raises:
        UnknownMechanism: a name that is none of them.
    """
    token = _off.set(_off.get() | frozenset(checked(names)))
    try:
        yield
    finally:
        _off.reset(token)


def is_on(name: str) -> bool:
    """Whether a mechanism acts."""
    return name not in _off.get()


def idealised(gpu: Gpu) -> Gpu:
    """The GPU without the facts that are switched off; itself where none is."""
    for name in sorted(_off.get()):
        idealise = MECHANISMS[name].idealise
        gpu = gpu if idealise is None else idealise(gpu)
    return gpu
