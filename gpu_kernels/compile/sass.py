"""SASS as cuobjdump prints it: the instructions of a function."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

_FUNCTION = re.compile(r"^\s*Function : (\S+)", re.MULTILINE)
_INSTRUCTION = re.compile(
    r"^\s*/\*(?P<address>[0-9a-f]{4,})\*/\s+"
    r"(?:@(?P<predicate>!?U?P(?:T|\d+))\s+)?"
    r"(?P<opcode>[A-Z][A-Z0-9_]*(?:\.[A-Za-z0-9_]+)*)"
    r"(?P<operands>[^;]*);"
    r"(?:\s*/\* 0x[0-9a-f]{16} \*/\s*/\* 0x(?P<upper>[0-9a-f]{16}) \*/)?",
    re.MULTILINE,
)
_NO_SCOREBOARD = 7
_ADDRESS = re.compile(r"\b0x([0-9a-f]+)\s*$")

#: Opcodes of the tensor cores: mma.sync of halves, bytes and doubles; wgmma; tcgen05.
TENSOR = frozenset(
    {"HMMA", "IMMA", "QMMA", "OMMA", "DMMA"}
    | {"HGMMA", "IGMMA", "QGMMA"}
    | {"UTCHMMA", "UTCQMMA", "UTCIMMA", "UTCOMMA"}
)
# CALL.REL.NOINC serves ptxas as a far branch too. Both ways count as possible.
_BRANCHES = frozenset({"BRA", "CALL", "JMP"})
_ENDS = frozenset({"EXIT", "RET", "BRX", "JMX", "KILL"})


@dataclass(frozen=True, slots=True)
class Control:
    """What the compiler has scheduled for one instruction: bits 105 to 121 of its 128.

    Attributes:
        stall_cycles: until the warp issues its next instruction.
        sets: the scoreboard that its result clears; None for fixed latencies.
        releases: the scoreboard that clears once its operands are read.
        awaits: scoreboards that must be clear before it issues.
    """

    stall_cycles: int = 0
    sets: int | None = None
    releases: int | None = None
    awaits: tuple[int, ...] = ()

    @classmethod
    def decoded(cls, upper: int) -> Control:
        """From the upper 64 bits of sm_80's encoding, which sm_90's shares."""
        bits = upper >> 41
        sets, releases, awaits = bits >> 5 & 7, bits >> 8 & 7, bits >> 11 & 63
        return cls(
            bits & 15,
            None if sets == _NO_SCOREBOARD else sets,
            None if releases == _NO_SCOREBOARD else releases,
            tuple(number for number in range(6) if awaits >> number & 1),
        )


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction.

    Attributes:
        address: in bytes from the function's start.
        opcode: with its modifiers, `HMMA.16816.F32`.
        operands: as printed.
        predicate: `P6`, `!P0`; empty where it is always executed.
        target: where a branch goes.
        control: its schedule; empty where the listing prints no encodings.
    """

    address: int
    opcode: str
    operands: str = ""
    predicate: str = ""
    target: int | None = None
    control: Control = Control()

    @property
    def name(self) -> str:
        """The opcode without modifiers, except for the function that MUFU computes."""
        base, _, rest = self.opcode.partition(".")
        return f"{base}.{rest.partition('.')[0]}" if base == "MUFU" else base

    @property
    def is_tensor(self) -> bool:
        """Whether the tensor cores execute it."""
        return self.name in TENSOR

    @property
    def ends(self) -> bool:
        """Whether control leaves here for a place the code does not name."""
        return self.name in _ENDS

    @property
    def falls_through(self) -> bool:
        """Whether the next instruction may follow: not behind a branch that is always taken."""
        always = self.predicate in ("", "PT") and not self._uniform_condition
        return not (always and (self.ends or self.name in ("BRA", "JMP")))

    @property
    def _uniform_condition(self) -> bool:
        """`BRA.U UP0, 0x210` has its condition among the operands."""
        return self.target is not None and "," in self.operands


def function_of(listing: str, name: str) -> tuple[Instruction, ...]:
    """The instructions of the function `name`, in the order of addresses.

    Raises:
        ValueError: the listing has no such function.
    """
    parts = _FUNCTION.split(listing)
    functions = dict(zip(parts[1::2], parts[2::2], strict=True))
    if name not in functions:
        raise ValueError(f"no function {name!r}, only {', '.join(functions) or 'none'}")
    return tuple(_instruction(match) for match in _INSTRUCTION.finditer(functions[name]))


def _instruction(match: re.Match[str]) -> Instruction:
    operands = match["operands"].strip()
    goes = _ADDRESS.search(operands) if match["opcode"].split(".")[0] in _BRANCHES else None
    return Instruction(
        address=int(match["address"], 16),
        opcode=match["opcode"],
        operands=operands,
        predicate=match["predicate"] or "",
        target=None if goes is None else int(goes[1], 16),
        control=Control.decoded(int(match["upper"], 16)) if match["upper"] else Control(),
    )


def mix(instructions: Iterable[Instruction]) -> dict[str, int]:
    """How many there are of each name, the most frequent first."""
    return dict(Counter(each.name for each in instructions).most_common())
