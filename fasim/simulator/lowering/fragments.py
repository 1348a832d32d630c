"""A product's fragments in a warp's registers: when each is fetched, and what it waits for.

ldmatrix brings them from shared memory a step ahead of the mma.sync that multiply them. Registers
that products read may be filled anew once these have read them. Compilers see to that in two ways.
"""

from __future__ import annotations

from collections.abc import Sequence

from fasim.hardware.gpu import LDMATRIX_BYTES
from fasim.schedules.record import Op
from fasim.simulator.lowering.emitter import Emitter

# Where fragments are guarded, those of the left operand are in registers for so many steps, and so
# many of the right one at a time: in FlashAttention-2's compiled forward loops of head_dim 32 to
# 256, 4 to 10 fragments of V are live. One takes the place of the one so far before it.
GUARDED_STEPS = 2
GUARDED_FRAGMENTS = 8


class Fragments:
    """Fetches the fragments of one product, step by step along the side that it contracts.

    Unguarded, those of the next step are fetched between this step's products, dealt out evenly.
    Guarded, a fragment takes the place of an earlier one right behind the last product that reads
    that, and waits until all products issued so far have ended: they set the scoreboard that
    stands for their operands when they end.

    Args:
        operands: left and right: the operation that makes it, and fragments a step; none of one
            that is in registers already.
        steps: of the product.
        guarded: which of the two ways.
    """

    def __init__(
        self, emitter: Emitter, operands: Sequence[tuple[Op, int]], steps: int, *, guarded: bool
    ) -> None:
        self.emitter, self.operands, self.steps, self.guarded = emitter, operands, steps, guarded
        ahead = min(GUARDED_STEPS if guarded else 1, steps)
        left, right = (loads * ahead for _, loads in operands)
        if guarded:
            right = min(right, GUARDED_FRAGMENTS)
        # Fragments fetched so far of either operand, step after step.
        self._fetched = [
            [self._fetch(0) for _ in range(left)],
            [self._fetch(1) for _ in range(right)],
        ]

    def begin(self, step: int) -> None:
        """Before the products of a step."""
        self._comes = step + (GUARDED_STEPS if self.guarded else 1)

    def beside(self, group: int, groups: int) -> None:
        """Before the products of a group: its share of what the next step takes."""
        if self.guarded or self._comes >= self.steps:
            return
        for side, (_, loads) in enumerate(self.operands):
            for _ in range(share(loads, group, groups)):
                self._fetched[side].append(self._fetch(side))

    def parts(self, count: int, group: int, groups: int) -> list[int]:
        """How many products of a group are issued between two fetches.

        The last group goes back over the fragments of the left operand: each of its last products
        is the last to read one.
        """
        left = self.operands[0][1]
        last = self.guarded and self._comes < self.steps and group + 1 == groups
        alone = min(left, count) - 1 if last and left else 0
        return [count - alone, *([1] * alone)]

    def behind(self, product: int, group: int, groups: int, *, ends: bool) -> None:
        """Right behind a part of a group: fetches into the registers that nothing reads any more.

        Args:
            product: the item that was issued last.
            ends: whether it ends the group.
        """
        if not self.guarded:
            return
        for side, freed in enumerate((group + 1 == groups, ends)):
            if freed and len(self._fetched[side]) < self.steps * self.operands[side][1]:
                fetched = self._fetch(side)
                self.emitter.require(fetched, product, 0)
                self._fetched[side].append(fetched)

    def needs(self, step: int, group: int) -> list[int]:
        """What the products of a group wait for: all of A's fragments, and theirs of B."""
        left, right = (loads for _, loads in self.operands)
        mine = step * right + group
        return [
            *self._fetched[0][step * left : (step + 1) * left],
            *(self._fetched[1][mine : mine + 1] if right else ()),
        ]

    def _fetch(self, side: int) -> int:
        needs = self.emitter.after((self.operands[side][0].index,))
        return self.emitter.shared_memory(LDMATRIX_BYTES, needs=needs, name="ldmatrix")


def share(total: int, group: int, groups: int) -> int:
    """Part `group` of `total`, dealt out evenly."""
    return total * (group + 1) // groups - total * group // groups
