"""What each instruction of a compiled loop waits for, read from its machine code."""

from __future__ import annotations

from collections.abc import Sequence

from fasim.schedules.compiled_loop import Instruction
from fasim.simulator.lowering.products import WGMMA_QUEUE

Need = tuple[int, int]
"""An instruction's index, and how many iterations back it issued."""


def needs_of(code: Sequence[Instruction]) -> list[tuple[Need, ...]]:
    """Of each instruction, those whose results must be visible before it issues."""
    found: list[dict[Need, None]] = [{} for _ in code]
    for n, need in (*_by_registers(code), *_by_scoreboards(code), *_by_groups(code)):
        found[n][need] = None
    return [tuple(needs) for needs in found]


def _by_registers(code):
    """The last writer of each register that is read; of the iteration before, if need be."""
    last: dict[str, Need] = {}
    for back in (1, 0):
        for n, each in enumerate(code):
            if not each.runs: continue
            if back == 0:
                for register in each.read:
                    if register in last:
                        # in-place accumulation in FIFO of wgmma
                        p, b = last[register]
                        if not (each.name == "HGMMA" and code[p].name == "HGMMA"):
                            yield n, (p, b)
            for register in each.written:
                last[register] = (n, back)


def _by_scoreboards(code):
    pending: dict[int, list[Need]] = {}
    for back in (1, 0):
        for n, each in enumerate(code):
            for sb in each.awaits:
                if back == 0:
                    for need in pending.get(sb, []):
                        yield n, need
                pending[sb] = []
            if each.sets is not None and each.name != "LDGDEPBAR":
                pending.setdefault(each.sets, []).append((n, back))


def _by_groups(code):
    for sort, commit, wait in (("LDGSTS", "LDGDEPBAR", "DEPBAR"), ("HGMMA", "HGMMA", "WARPGROUP")):
        groups: list[list[int]] = []
        cur: list[int] = []
        for n, e in enumerate(code):
            if e.name == sort: cur.append(n)
            if e.name == commit and (commit != "HGMMA" or e.groups): groups.append(cur); cur = []
        if not groups: continue
        done = 0
        for n, e in enumerate(code):
            if e.name == commit and (commit != "HGMMA" or e.groups): done += 1
            if e.name == wait and "DEPBAR" in e.opcode:
                most = int(e.groups.split(",")[1], 16)
                target = done - 1 - most
                back, idx = 0, target
                while idx < 0: idx += len(groups); back += 1
                for need in groups[idx]: yield n, (need, back)
    w=[n for n,e in enumerate(code) if e.name=="HGMMA"]
    # a warp has WGMMA_QUEUE at the tensor core
    for k,n in enumerate(w):
        if k-WGMMA_QUEUE >= 0: yield n,(w[k-WGMMA_QUEUE],0)
        elif len(w) >= WGMMA_QUEUE: yield n,(w[k-WGMMA_QUEUE],1)
