"""What operations cost in instructions: facts of the instruction set and of compiled loops."""

from __future__ import annotations

from typing import Literal

from fasim.schedules.record import Op, Record
from fasim.simulator.mechanisms import is_on

Arithmetic = Literal["fp32", "alu", "sfu"]
"""The pipes of ordinary instructions."""

# What one thread moves by one copy instruction: cp.async and a vector load take 16 bytes at
# most (PTX ISA).
COPY_BYTES = 16
# mma.sync: 16 rows, 8 columns, 32 bytes of the contracted side (m16n8k16 of two-byte types,
# k32 of one-byte types, k8 of TF32; PTX ISA). wgmma takes 64 rows and as many bytes.
MMA_ROWS, MMA_COLUMNS, MMA_K_BYTES = 16, 8, 32
WGMMA_ROWS = 64
ADDRESS_INSTRUCTIONS = 2  # a 64-bit address is advanced by an add and an add with carry
LOOP_INSTRUCTIONS = 8  # counter, compare, branch, buffer indices
MASK_INSTRUCTIONS = 2  # compare the column with the row's limit, select
# Philox4x32-10 (Salmon et al. 2011): ten rounds of two wide multiplications, two three-way xors and
# two additions to the key make four words. FlashAttention-2 takes a byte an element, so that a
# call serves 16: 3.75 instructions each. An estimate: nothing has been measured, and all are put
# on the integer pipe, though the multiplications go beside it.
PHILOX_INSTRUCTIONS = 10 * (2 + 4) / 16
DROPOUT_INSTRUCTIONS = 2  # compare, select; the scale 1/(1 − dropout) goes into O's at the end
FINITE_INSTRUCTIONS = 2  # compare with −inf, select

SFU_OPS = ("exp2", "log2", "inverse")
REDUCTIONS = ("row_max", "row_sum")
_FP32_OPS = ("add", "sub", "mul")
_ALU_OPS = ("maximum", "cast", "mask", "dropout", "finite")
_ELEMENTWISE = frozenset((*_FP32_OPS, *_ALU_OPS, *SFU_OPS, *REDUCTIONS))


def is_elementwise(op: Op) -> bool:
    """Whether an operation takes its tile element by element; a row reduction does."""
    return op.kind in _ELEMENTWISE


def is_rare(op: Op) -> bool:
    """Whether an access happens in one step of a loop only: the other steps do without."""
    return op.when is not None and op.when.which in ("first", "last")


def instruction_cost(op: Op, record: Record, masked: bool) -> tuple[Arithmetic, float]:
    """Pipe and instructions per element of an elementwise operation or a row reduction.

    Args:
        masked: whether the tile is one that the mask cuts through.
    """
    if op.kind in SFU_OPS:
        return "sfu", 1.0
    if op.kind in ("maximum", "row_max"):
        return "alu", 1.0
    if op.kind == "finite":
        return "alu", float(FINITE_INSTRUCTIONS)
    if op.kind == "mask":
        hides = masked and record.kernel.problem.masked and is_on("mask")
        return "alu", float(MASK_INSTRUCTIONS if hides else 0)
    if op.kind == "dropout":
        drawn = _draws(op, record)
        return "alu", DROPOUT_INSTRUCTIONS + (PHILOX_INSTRUCTIONS if drawn else 0.0)
    if op.kind == "cast":
        if record.ops[op.inputs[0]].dtype == op.dtype:
            return "alu", 0.0
        return "alu", 1.0 if op.dtype == "fp32" else 0.5  # F2FP packs two
    return "fp32", 1.0


def _draws(op: Op, record: Record) -> bool:
    """Whether dropout draws its numbers here: dP is dropped by what P's sign has kept of them."""
    return not any(
        other.kind == "dropout" and (other.path, other.iteration) == (op.path, op.iteration)
        for other in record.ops[: op.index]
    )
