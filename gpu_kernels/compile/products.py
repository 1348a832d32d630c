"""Tensor-core instructions that one iteration of a loop needs, from the compiler's IR (TTGIR).

The IR multiplies whole tiles; how many instructions make one product follows from the layout and
the instruction set. What a loop in SASS holds, over what one iteration needs, is its unroll factor.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import ceil

from gpu_kernels.compile.regions import loop_lines

_PRODUCT = re.compile(r"\b(tt\.dot|ttng\.warp_group_dot|ttng\.tc_gen5_mma)\s.* : (?P<types>.*)$")
_TILE = re.compile(r"(?:tensor|memdesc)<(?:\d+x)*?(\d+)x(\d+)x([a-z]+)(\d+)\w*, (#\w+)")
_SHAPE = re.compile(r"instrShape = \[([\d, ]+)\]")
_WARPS = re.compile(r"warpsPerCTA = \[([\d, ]+)\]")
_BLOCK_ROWS = re.compile(r"blockM = (\d+)")
# The contracted side of one instruction: 32 bytes of each row (PTX ISA: m16n8k16 of halves, k32
# of bytes, k8 of TF32; wgmma and tcgen05.mma alike).
K_BITS = 256
MMA_SHAPE = (16, 8)
TCGEN05_COLUMNS = 256  # tcgen05.mma multiplies up to so many columns at once (PTX ISA)


def tensor_instructions(ttgir: str) -> int:
    """Instructions of a warp in one iteration of the loop that multiplies most; 0 without one.

    Of tcgen05, which one thread issues for its block: those of the block.
    """
    lines = [line.split(" loc(")[0] for line in ttgir.splitlines()]
    layouts = {line.split(" = ")[0]: line for line in lines if re.match(r"#\w+ = #tt", line)}
    loops = loop_lines(lines)
    counts = []
    for first, last in loops:
        inner = [each for each in loops if first < each[0] and each[1] < last]
        own = (n for n in range(first, last) if not any(a < n < b for a, b in inner))
        counts.append(sum(_instructions(lines[n], layouts) for n in own))
    return max(counts, default=0)


def _instructions(line: str, layouts: dict[str, str]) -> int:
    """Of one product; 0 for a line that is none, or one that FP32 lanes multiply."""
    product = _PRODUCT.search(line)
    if product is None:
        return 0
    tiles = _TILE.findall(_without_operand_layouts(product["types"]))
    (rows, contracted, _, bits, _), (_, columns, _, _, _), (*_, layout) = tiles[:3]
    encoding = layouts[layout]
    steps = ceil(int(contracted) / (K_BITS // int(bits)))
    if product[1] == "ttng.tc_gen5_mma":
        (block_rows,) = _numbers(_BLOCK_ROWS, encoding)
        return ceil(int(rows) / block_rows) * ceil(int(columns) / TCGEN05_COLUMNS) * steps
    if "nvidia_mma" not in encoding:
        return 0
    down, across = _numbers(_WARPS, encoding)
    shape = _numbers(_SHAPE, encoding)
    each_rows, each_columns = MMA_SHAPE if product[1] == "tt.dot" else (shape[0], shape[1])
    return ceil(int(rows) / each_rows / down) * ceil(int(columns) / each_columns / across) * steps


def _without_operand_layouts(types: str) -> str:
    """An operand in registers names its parent's layout, within a layout of its own."""
    return re.sub(r"#ttg\.dot_op<\{[^}]*parent = (#\w+)[^}]*\}>", r"\1", types)


def _numbers(pattern: re.Pattern[str], encoding: str) -> Sequence[int]:
    found = pattern.search(encoding)
    assert found is not None, encoding
    return [int(each) for each in found[1].split(",")]
