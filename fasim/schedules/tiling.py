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
        num_splits: parts into which the keys of a head are dealt, each to blocks of its own.
        pack_gqa: the query heads of a group are rows of one tile, and read K and V once.
        page_size: keys in a page of a paged K/V cache; 0 for a contiguous one.
    """

    tile_m: int
    tile_n: int
    descending: bool = False
    num_splits: int = 1
    pack_gqa: bool = False
    page_size: int = 0

    def __post_init__(self) -> None:
        for name in ("tile_m", "tile_n"):
            value = getattr(self, name)
            if value < 16 or value % 16:
                raise ProblemError(
                    f"tile {self.tile_m}x{self.tile_n}: {name} is {value}; "
                    "it must be a multiple of 16, the rows of a tensor-core fragment"
                )
        if self.num_splits < 1:
            raise ProblemError(f"num_splits is {self.num_splits}; it must be 1 or more")
        if self.page_size < 0:
            raise ProblemError(f"page_size is {self.page_size}; it must be 1 or more keys")

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
