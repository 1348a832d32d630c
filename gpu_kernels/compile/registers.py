"""Which registers an instruction of SASS writes, and which it reads, as its operands print them.

The first register is the destination, with the predicates in front of it and right behind it (a
comparison's results, an addition's carry); all others are read. How many registers follow the one
that is printed comes from the opcode: a fragment of HMMA, a vector load, a 64-bit address.
"""

from __future__ import annotations

import re

from gpu_kernels.compile.sass import Instruction

# Copies, branches, barriers: all that they name is read.
_WRITES_NOTHING = frozenset(
    {"BAR", "BRA", "CALL", "DEPBAR", "EXIT", "FENCE", "LDGDEPBAR", "LDGSTS", "MEMBAR", "NOP"}
    | {"RED", "ST", "STG", "STS", "STSM", "WARPGROUP"}
)
_COMPARISONS = frozenset({"FSETP", "ISETP", "UISETP", "PLOP3", "UPLOP3"})  # write two predicates
_REGISTER = re.compile(r"\b(UR|R|UP|P)(\d+)(\.64)?")
_PREDICATE = re.compile(r"!?U?P(?:T|\d+)")
_VECTOR_BITS = re.compile(r"\.(64|128)\b")
_MATRICES = re.compile(r"\.MT?88\.([24])")
_WGMMA_COLUMNS = re.compile(r"\.64x(\d+)x")
# Fragments of one mma.sync.m16n8k16: D, A, B, C (PTX ISA).
_MMA_REGISTERS = (4, 4, 2, 4)
# Of one wgmma: 64 rows over 128 threads, so half as many accumulators as columns; A, where it is
# in registers; the uniform registers that describe what is in shared memory.
_WGMMA_THREADS_A_ROW = 2
_WGMMA_LEFT_REGISTERS = 4
_WGMMA_DESCRIPTORS = 4
_MEMORY_DESCRIPTOR = 2


def written_and_read(instruction: Instruction) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What it writes, and what it reads, each once.

    `R12:4` stands for R12 to R15; R and P are a thread's registers and predicates, UR and UP those
    that a warp shares. What is always zero or true is left out.
    """
    written, read = list[str](), list[str]()
    guard = _REGISTER.search(instruction.predicate)
    if guard is not None:
        read.append(f"{guard[0]}:1")
    operands = [] if instruction.target is not None else instruction.operands.split(", ")
    destinations = _destinations(instruction, operands)
    for place, operand in enumerate(operands):
        into = written if place < destinations else read
        for match in _REGISTER.finditer(operand):
            width = _width(instruction, place, operand, match)
            into.append(f"{match[1]}{match[2]}:{width}")
    return tuple(dict.fromkeys(written)), tuple(dict.fromkeys(read))


def _destinations(instruction: Instruction, operands: list[str]) -> int:
    """How many of the operands, from the first on, are written."""
    if instruction.name in _WRITES_NOTHING:
        return 0
    if instruction.name in _COMPARISONS:
        return 2
    place = 0
    while place < len(operands) and _PREDICATE.fullmatch(operands[place]):
        place += 1
    place += 1
    while place < len(operands) and _PREDICATE.fullmatch(operands[place]):
        place += 1
    return place


def _width(instruction: Instruction, place: int, operand: str, match: re.Match[str]) -> int:
    """Registers of one operand."""
    kind, opcode = match[1], instruction.opcode
    if kind in ("P", "UP"):
        return 1
    if kind == "UR" and "desc" in operand:
        return _WGMMA_DESCRIPTORS if "gdesc" in operand else _MEMORY_DESCRIPTOR
    if match[3]:
        return 2
    if instruction.name == "HMMA":
        return _MMA_REGISTERS[place]
    columns = _WGMMA_COLUMNS.search(opcode)
    if columns:
        left = place == 1  # in registers; the accumulators are in front of it and behind
        return _WGMMA_LEFT_REGISTERS if left else int(columns[1]) // _WGMMA_THREADS_A_ROW
    if ".WIDE" in opcode:
        return 2 if place in (0, 3) else 1
    matrices, bits = _MATRICES.search(opcode), _VECTOR_BITS.search(opcode)
    if place == 0 and matrices:
        return int(matrices[1])
    if place == 0 and bits and instruction.name not in _WRITES_NOTHING:
        return int(bits[1]) // 32
    return 1
