"""A product's fragments in a warp's registers: when each is fetched, and what it waits for.

ldmatrix brings them from shared memory a step ahead of the mma.sync that multiply them. Registers
that products read may be filled anew once these have read them. Compilers see to that in two ways.
"""

from __future__ import annotations

from collections.abc import Sequence

from fasim.hardware.gpu import LDMATRIX_BYTES
from fasim.schedules.record import Op
from fasim.simulator.lowering.emitter import Emitter

# Steps whose fragments are in registers at a time, where these are guarded: as in the compiled
# loops of FlashAttention-2. The fragments of one step take the place of those two steps before.
GUARDED_STEPS = 2


class Fragments:
    """Fetches the fragments of one product, step by step along the side that it contracts.

    Unguarded, those of the next step are fetched between this step's products, dealt out evenly.
    Guarded, a fragment of the step after next takes the place of one of this step, right behind the
    last product that reads it, and waits until all products issued so far have ended: they set the
    scoreboard that stands for their operands when they end.

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
        self._fetched = [
            [[self._fetch(side) for _ in range(loads)] for side, (_, loads) in enumerate(operands)]
            for _ in range(ahead)
        ]

    def begin(self, step: int) -> None:
        """Before the products of a step."""
        self._comes = step + (GUARDED_STEPS if self.guarded else 1)
        if self._comes < self.steps:
            self._fetched.append([[], []])

    def beside(self, group: int, groups: int) -> None:
        """Before the products of a group: its share of what the next step takes."""
        if self.guarded or self._comes >= self.steps:
            return
        for side, (_, loads) in enumerate(self.operands):
            for _ in range(share(loads, group, groups)):
                self._fetched[self._comes][side].append(self._fetch(side))

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
        if not self.guarded or self._comes >= self.steps:
            return
        left, right = (loads for _, loads in self.operands)
        freed = [0] if group + 1 == groups and left else []
        if ends and right:
            freed.append(1)
        for side in freed:
            fetched = self._fetch(side)
            self.emitter.require(fetched, product, 0)
            self._fetched[self._comes][side].append(fetched)

    def needs(self, step: int, group: int) -> list[int]:
        """What the products of a group wait for: all of A's fragments, and theirs of B."""
        left, right = self._fetched[step]
        return [*left, *right[group : group + 1]]

    def _fetch(self, side: int) -> int:
        needs = self.emitter.after((self.operands[side][0].index,))
        return self.emitter.shared_memory(LDMATRIX_BYTES, needs=needs, name="ldmatrix")


def share(total: int, group: int, groups: int) -> int:
    """Part `group` of `total`, dealt out evenly."""
    return total * (group + 1) // groups - total * group // groups
