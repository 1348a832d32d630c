"""The footprint reading: device memory by tensor, over the chain of kernels."""

from __future__ import annotations

from dataclasses import dataclass

from fasim.schedules.language import Kernel
from fasim.schedules.record import cached_record

# Backward reads O; the caller holds it all the same.
RESULTS = frozenset({"O"})
# What the caller drops as soon as it is there.
DISCARDED = frozenset({"P_unused"})


@dataclass(frozen=True)
class Footprint:
    """Device memory of a chain.

    Attributes:
        by_tensor: bytes of every tensor of the chain.
        peak_bytes: the most that lives at one time: inputs and outputs throughout, what one
            kernel hands to another from its first use to its last.
        lives: (first, last) kernel index of each tensor.
    """

    by_tensor: dict[str, int]
    peak_bytes: int
    lives: dict[str, tuple[int, int]]


def footprint(kernels: tuple[Kernel, ...]) -> Footprint:
    """Device memory by tensor and its peak."""
    sizes: dict[str, int] = {}
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, kernel in enumerate(kernels):
        for tensor in kernel.tensors:
            sizes[tensor.name] = tensor.allocated_bytes(kernel.lengths)
            first.setdefault(tensor.name, index)
            last[tensor.name] = index
    end, handed_on = len(kernels) - 1, intermediates(kernels) - RESULTS
    for name in sizes:
        if name not in handed_on | DISCARDED:  # an input or an output: the caller holds it
            first[name], last[name] = 0, end
    peak = max(
        sum(size for name, size in sizes.items() if first[name] <= index <= last[name])
        for index in range(len(kernels))
    )
    return Footprint(sizes, peak, {name: (first[name], last[name]) for name in sizes})


def intermediates(kernels: tuple[Kernel, ...]) -> frozenset[str]:
    """Tensors that one kernel of the chain writes and a later one reads."""
    written: set[str] = set()
    handed: set[str] = set()
    for kernel in kernels:
        ops = list(cached_record(kernel).once())
        # `written` holds earlier kernels' tensors: what a kernel re-reads of its own is output.
        handed |= {op.name for op in ops if op.kind == "load" and op.name in written}
        written |= {op.name for op in ops if op.kind == "store"}
    return frozenset(handed)
