"""Registers and local memory of a compiled function, as cuobjdump tells them."""

from __future__ import annotations

import re
from dataclasses import dataclass

REGISTER_BYTES = 4


@dataclass(frozen=True, slots=True)
class Resources:
    """What one thread takes.

    Attributes:
        spills: registers that live in local memory: its bytes over four, as Triton counts.
    """

    registers: int
    spills: int


def resources_of(usage: str, function: str) -> Resources:
    """Reads the output of `cuobjdump -res-usage`.

    Raises:
        ValueError: it does not name the function.
    """
    found = re.search(
        rf"Function {re.escape(function)}:\s*REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage
    )
    if found is None:
        raise ValueError(f"no resource usage of {function!r}")
    registers, stack_bytes, local_bytes = map(int, found.groups())
    return Resources(registers, (stack_bytes + local_bytes) // REGISTER_BYTES)
