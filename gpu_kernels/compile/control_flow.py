"""The natural loops of a function's SASS: back edges by dominators, bodies by reachability.

A branch to a lower address is not yet a loop: compilers put what runs rarely, such as the retry
of a barrier's wait, behind a function's end, and branch back from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpu_kernels.compile.sass import Instruction


@dataclass(frozen=True)
class Loop:
    """A loop: the address of its header, and its instructions in the order of addresses.

    Attributes:
        nested: addresses of those that belong to a loop inside it too.
    """

    header: int
    instructions: tuple[Instruction, ...]
    nested: frozenset[int]

    @property
    def own(self) -> tuple[Instruction, ...]:
        """What belongs to this loop alone."""
        return tuple(each for each in self.instructions if each.address not in self.nested)


def loops_of(function: Sequence[Instruction]) -> list[Loop]:
    """Every loop of a function, outermost first."""
    blocks = _blocks(function)
    successors = _successors(blocks)
    dominators = _dominators(successors, function[0].address)
    bodies: dict[int, set[int]] = {}
    for source, targets in successors.items():
        for header in targets:
            if source in dominators and header in dominators[source]:
                bodies.setdefault(header, {header}).update(_reaching(successors, source, header))
    found = []
    for header, body in bodies.items():
        inside = [other for other in bodies.values() if other < body]
        nested = {each.address for part in inside for start in part for each in blocks[start]}
        code = tuple(each for start in sorted(body) for each in blocks[start])
        found.append(Loop(header, code, frozenset(nested)))
    return sorted(found, key=lambda loop: -len(loop.instructions))


def _blocks(function: Sequence[Instruction]) -> dict[int, list[Instruction]]:
    """Basic blocks by the address of their first instruction."""
    starts = {each.target for each in function if each.target is not None}
    blocks: dict[int, list[Instruction]] = {}
    current: list[Instruction] = []
    begins = True
    for each in function:
        if begins or each.address in starts:
            current = blocks.setdefault(each.address, [])
        current.append(each)
        begins = each.target is not None or each.ends
    return blocks


def _successors(blocks: dict[int, list[Instruction]]) -> dict[int, list[int]]:
    starts = sorted(blocks)
    following = dict(zip(starts, [*starts[1:], None], strict=True))
    found: dict[int, list[int]] = {}
    for start, code in blocks.items():
        last = code[-1]
        targets = [] if last.target is None else [last.target]
        fallthrough = following[start]
        if last.falls_through and fallthrough is not None:
            targets.append(fallthrough)
        found[start] = [target for target in targets if target in blocks]
    return found


def _dominators(successors: dict[int, list[int]], entry: int) -> dict[int, set[int]]:
    """Of each reachable block, the blocks that every way from the entry to it passes."""
    order, seen, stack = [], {entry}, [(entry, iter(successors[entry]))]
    while stack:  # depth first; reverse postorder settles in few rounds
        block, rest = stack[-1]
        for target in rest:
            if target not in seen:
                seen.add(target)
                stack.append((target, iter(successors[target])))
                break
        else:
            order.append(block)
            stack.pop()
    order.reverse()
    before: dict[int, list[int]] = {block: [] for block in order}
    for block in order:
        for target in successors[block]:
            before[target].append(block)
    dominators = {block: set(order) for block in order}
    dominators[entry] = {entry}
    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            common = set.intersection(*(dominators[each] for each in before[block])) | {block}
            if common != dominators[block]:
                dominators[block], changed = common, True
    return dominators


def _reaching(successors: dict[int, list[int]], source: int, header: int) -> set[int]:
    """The blocks from which `source` is reached without passing the header."""
    before: dict[int, list[int]] = {}
    for block, targets in successors.items():
        for target in targets:
            before.setdefault(target, []).append(block)
    body, stack = {header, source}, [source] if source != header else []
    while stack:
        for block in before.get(stack.pop(), []):
            if block not in body:
                body.add(block)
                stack.append(block)
    return body
