"""What each instruction of a compiled loop waits for, as its machine code says.

Operands are taken to be read as an instruction issues: a register may be written again from then
on, and the scoreboards that guard operands are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fasim.schedules.compiled_loop import Instruction
from fasim.simulator.lowering.products import WGMMA_QUEUE

Need = tuple[int, int]
"""An instruction's index, and how many iterations back it issued."""

COPY, COPY_COMMIT = "LDGSTS", "LDGDEPBAR"
PRODUCT = "HGMMA"
WAITS = {"DEPBAR.LE": COPY, "WARPGROUP.DEPBAR.LE": PRODUCT}
"""What waits until few enough groups are left, and of what these are."""


def needs_of(code: Sequence[Instruction]) -> list[tuple[Need, ...]]:
    """Of each instruction, those whose results must be visible before it issues.

    The last writers of the registers it reads; all that the scoreboards it awaits stand for; of a
    wait, the groups that may not be left.
    """
    found: list[dict[Need, None]] = [{} for _ in code]
    for needs in (_registers(code), _scoreboards(code), _groups(code), _queue(code)):
        for index, need in needs:
            found[index][need] = None
    return [tuple(needs) for needs in found]


def _registers(code: Sequence[Instruction]) -> Iterator[tuple[int, Need]]:
    """Last writers, of this iteration or the one before.

    What no instruction of the loop writes is there already. wgmmas that add to the same registers
    run in order, and do not wait for each other.
    """
    writers: dict[str, Need] = {}
    for back in (1, 0):
        for index, each in enumerate(code):
            if not each.runs:
                continue
            if back == 0:
                for register in each.read:
                    need = writers.get(register)
                    if need and not each.name == code[need[0]].name == PRODUCT:
                        yield index, need
            writers.update(dict.fromkeys(each.written, (index, back)))


def _scoreboards(code: Sequence[Instruction]) -> Iterator[tuple[int, Need]]:
    """All that has set a scoreboard since it was last awaited: it is clear when all are done."""
    pending: dict[int, list[Need]] = {}
    for back in (1, 0):
        for index, each in enumerate(code):
            for scoreboard in each.awaits:
                for need in pending.pop(scoreboard, []):
                    if back == 0:
                        yield index, need
            if each.sets is not None and each.name != COPY_COMMIT:  # a wait of its own is for that
                pending.setdefault(each.sets, []).append((index, back))


def _groups(code: Sequence[Instruction]) -> Iterator[tuple[int, Need]]:
    """Groups of copies and of wgmmas: a wait leaves the youngest ones, as many as it says."""
    for wait, kind in WAITS.items():
        groups: list[list[int]] = [[]]
        for index, each in enumerate(code):
            if each.name == kind:
                groups[-1].append(index)
            if _commits(each, kind):
                groups.append([])
        groups.pop()
        committed = 0
        for index, each in enumerate(code):
            committed += _commits(each, kind)
            if each.opcode == wait and groups:
                youngest = committed - 1 - int(each.groups.split(",")[1], 16)
                back, group = divmod(youngest, len(groups))
                for needed in groups[group]:
                    yield index, (needed, -back)


def _queue(code: Sequence[Instruction]) -> Iterator[tuple[int, Need]]:
    """A warp has so many wgmmas at the tensor core: one waits for that many before it."""
    products = [index for index, each in enumerate(code) if each.name == PRODUCT]
    for place, index in enumerate(products):
        back, ahead = divmod(place - WGMMA_QUEUE, len(products))
        if len(products) >= WGMMA_QUEUE:
            yield index, (products[ahead], -back)


def _commits(each: Instruction, kind: str) -> bool:
    """Whether an instruction ends a group: of copies, one of its own; of wgmmas, the last."""
    return each.name == COPY_COMMIT if kind == COPY else each.name == PRODUCT and bool(each.groups)
