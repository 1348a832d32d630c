"""What may move bytes or bits: the sizes of tiles and the direction of loops."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fasim.problem import ProblemError


@dataclass(frozen=True, slots=True)
class Tiling:
    """Rows of Q (`tile_m`) and of K/V (`tile_n`) a block works on at a time.

    Attributes:
        descending: the loop over K/V runs from the last tile to the first.
    """

    tile_m: int
    tile_n: int
    descending: bool = False

    def __post_init__(self) -> None:
        for name in ("tile_m", "tile_n"):
            value = getattr(self, name)
            if value < 16 or value % 16:
                raise ProblemError(
                    f"tile {self.tile_m}x{self.tile_n}: {name} is {value}; "
                    "it must be a multiple of 16, the rows of a tensor-core fragment"
                )

    def __str__(self) -> str:
        return f"{self.tile_m}x{self.tile_n}"


def parse_tile(text: str) -> tuple[int, int]:
    """`128x64` → (128, 64).

    Raises:
        ProblemError: the text is not two whole numbers with an x between.
    """
    sides = re.fullmatch(r"\s*([0-9]{1,9})\s*[xX]\s*([0-9]{1,9})\s*", text)
    if sides is None:
        raise ProblemError(f"tile is {text!r}; write rows of Q x rows of K/V, for example 128x64")
    return int(sides[1]), int(sides[2])
