"""Turns at the tensor cores: the ping-pong of warpgroups (FlashAttention-3, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

from fasim.simulator.stream import Barrier, Item


@dataclass(frozen=True, slots=True)
class Turn:
    """The turn of one warpgroup: it waits for its own, and passes on to the next group's.

    Passing on does not wait for the products, which are asynchronous: the next group's are
    queued behind them, and the tensor cores never idle between two turns.
    """

    group: int
    groups: int

    def wait(self) -> Item:
        """Waits until the group before has issued its products."""
        return Item("barrier", 1, 0, barrier=self._barrier(self.group), name="wait for turn")

    def pass_on(self) -> Item:
        """Lets the next group issue."""
        barrier = self._barrier((self.group + 1) % self.groups)
        return Item("barrier", 1, 0, asynchronous=True, barrier=barrier, name="pass turn on")

    def _barrier(self, group: int) -> Barrier:
        """Two warps of a scheduler meet at it: who waits and who passes on; group 0 begins."""
        return Barrier(f"turn {group}", participants=2, arrived=1 if group == 0 else 0)
