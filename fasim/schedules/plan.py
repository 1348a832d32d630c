"""A plan: the chain of kernels that a schedule or an implementation makes of a problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules.language import Kernel

if TYPE_CHECKING:
    from fasim.hardware import Gpu

Tile = tuple[int, int]


class Refused(Exception):
    """A schedule that cannot run this problem on this GPU, and why, in one line."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


@dataclass(frozen=True)
class Plan:
    """Kernels to run one after another.

    Attributes:
        tile: rows of Q × rows of K/V a block takes at a time; of the GEMMs for `standard`.
        assumptions: what was decided for the user, in sentences.
    """

    schedule: str
    implementation: str | None
    kernels: tuple[Kernel, ...]
    tile: Tile
    assumptions: tuple[str, ...] = ()


Build = Callable[[Attention, "Gpu", Tile | None], Plan]


@dataclass(frozen=True)
class Entry:
    """A schedule or an implementation in the catalogue.

    Attributes:
        needs: what it takes, in words, for `fasim schedules`.
        check: a reason to refuse the problem or the GPU, or None.
    """

    name: str
    schedule: str
    title: str
    source: str
    needs: str
    build: Build
    check: Callable[[Attention, Gpu], str | None]
