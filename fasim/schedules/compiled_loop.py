"""The main loop of a kernel as a compiler made it: its instructions in order, as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of machine code.

    Attributes:
        opcode: with its modifiers, `HMMA.16816.F32`.
        guard: the predicate that decides whether it runs, `!P0`; empty where it always does.
        written, read: registers and predicates, one name each.
        stall_cycles: until the warp may issue its next one, as the compiler has scheduled it.
        sets: the scoreboard that is clear once its result is there; None for fixed latencies.
        releases: the scoreboard that is clear once it has read its operands.
        awaits: scoreboards that must be clear before it issues.
        groups: of asynchronous work: which of its groups it waits for, or that it ends one.
    """

    opcode: str
    guard: str = ""
    written: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    stall_cycles: int = 0
    sets: int | None = None
    releases: int | None = None
    awaits: tuple[int, ...] = ()
    groups: str = ""

    @property
    def name(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.partition(".")[0]

    @property
    def runs(self) -> bool:
        """Whether it is ever executed; one that is not takes an issue slot all the same."""
        return self.guard not in ("!PT", "!UPT")


@dataclass(frozen=True, slots=True)
class CompiledLoop:
    """One iteration of a kernel's main loop, as one warp issues it.

    Attributes:
        tile: rows of Q × rows of K/V.
        toolchain: the versions of what compiled it.
    """

    kernel: str
    arch: str
    toolchain: str
    head_dim: int
    tile: tuple[int, int]
    warps: int
    stages: int
    dtype: str
    instructions: tuple[Instruction, ...]

    @classmethod
    def from_dict(cls, read: Mapping[str, Any]) -> CompiledLoop:
        """As `python -m gpu_kernels.compile --store` writes it."""
        same = "kernel arch toolchain head_dim warps stages dtype"
        return cls(
            **{name: read[name] for name in same.split()},
            tile=(read["tile"][0], read["tile"][1]),
            instructions=tuple(
                _instruction(dict(zip(read["columns"], row, strict=True)))
                for row in read["instructions"]
            ),
        )


@cache
def stored_loop(kernel: str, head_dim: int, arch: str) -> CompiledLoop | None:
    """The loop that is kept for a kernel of `gpu_kernels`; None where there is none."""
    file = resources.files("gpu_kernels") / "compiled" / f"{kernel}-d{head_dim}-{arch}.json"
    if not file.is_file():
        return None
    return CompiledLoop.from_dict(json.loads(file.read_text(encoding="utf-8")))


def _instruction(row: Mapping[str, Any]) -> Instruction:
    return Instruction(
        opcode=row["opcode"],
        guard=row["guard"],
        written=_registers(row["written"]),
        read=_registers(row["read"]),
        stall_cycles=row["stall_cycles"],
        sets=row["sets"],
        releases=row["releases"],
        awaits=tuple(map(int, row["awaits"])),
        groups=row["groups"],
    )


def _registers(text: str) -> tuple[str, ...]:
    """`R8:2 P0:1` as R8, R9, P0."""
    names = []
    for each in text.split():
        first, _, width = each.partition(":")
        kind = first.rstrip("0123456789")
        number = int(first.removeprefix(kind))
        names += [f"{kind}{number + n}" for n in range(int(width))]
    return tuple(names)
