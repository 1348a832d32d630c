"""Shared-memory buffers as the compiler's IR (TTGIR) allocates them, and which live together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

from gpu_kernels.compile.regions import loop_lines

_VALUE = re.compile(r"%[\w$.#-]+")
_ALLOCATION = re.compile(
    r"^\s*(?P<value>%[\w$.-]+) = ttg\.local_alloc (?P<given>%[\w$.-]+)?.*->\s*"
    r"!ttg\.memdesc<(?P<shape>(?:\d+x)+)(?P<dtype>[a-z]\w*)"
)
_CARRIED = re.compile(r"(%[\w$.-]+) = (%[\w$.#-]+)")
_BITS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Buffer:
    """One allocation: `count` tiles of one shape.

    Attributes:
        name: of the value it holds, as in the kernel's source.
        dtype: of its elements; i64 where it holds barriers.
        first, last: lines of the IR between which it lives.
    """

    name: str
    count: int
    tile: tuple[int, ...]
    dtype: str
    first: int
    last: int

    @property
    def bytes(self) -> int:
        """Of all its tiles."""
        bits = _BITS.search(self.dtype)
        assert bits is not None
        return self.count * prod(self.tile) * int(bits[0]) // 8


def buffers_of(ttgir: str) -> list[Buffer]:
    """Every buffer, in the order of allocation.

    One that is made empty, for a pipelined load or for barriers, has the number of tiles as its
    first dimension; one that is made of a value has that value's shape.
    """
    lines = ttgir.splitlines()
    ends = dict(loop_lines(lines))
    found = []
    for number, line in enumerate(lines):
        match = _ALLOCATION.match(line)
        if match is None:
            continue
        shape = tuple(int(side) for side in match["shape"].split("x") if side)
        count, tile = (1, shape) if match["given"] else (shape[0], shape[1:])
        name = re.sub(r"_\d+$", "", match["value"].lstrip("%"))
        last = _last_use(lines, number, match["value"], ends)
        found.append(Buffer(name, count, tile, match["dtype"], number, last))
    return found


def most_alive(buffers: list[Buffer]) -> list[Buffer]:
    """Those that live at the time when the most bytes do."""
    together = (
        [other for other in buffers if other.first <= each.first <= other.last] for each in buffers
    )
    return max(together, key=lambda alive: sum(each.bytes for each in alive), default=[])


def _last_use(lines: list[str], first: int, value: str, loops: dict[int, int]) -> int:
    """The line that frees a buffer, or the last that uses it or a view of it."""
    names, last = {value}, first
    scope = min((end for start, end in loops.items() if start < first < end), default=len(lines))
    for number in range(first + 1, scope):  # beyond, the name may stand for another value
        line = lines[number]
        if not names.intersection(_VALUE.findall(line)):
            continue
        last = number
        if "ttg.local_dealloc" in line:
            break
        if number in loops:  # carried through a loop under another name
            names |= {name for name, given in _CARRIED.findall(line) if given in names}
        elif "->" in line and "memdesc" in line.rsplit("->", 1)[1]:
            names.add(line.split("=", 1)[0].strip())
    # What a loop uses that was allocated before it lives until the loop's end.
    enclosing = (end for start, end in loops.items() if first < start <= last <= end)
    return max(enclosing, default=last)
