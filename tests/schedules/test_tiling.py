"""Tiles as a person writes them, and those that no tensor core takes."""

import pytest

from fasim.problem import ProblemError
from fasim.schedules.tiling import Tiling, parse_tile


@pytest.mark.parametrize("text", ["128x64", "128X64", " 128 x 64 "])
def test_a_tile_is_two_whole_numbers(text: str) -> None:
    assert parse_tile(text) == (128, 64)


@pytest.mark.parametrize("text", ["", "128", "128x", "128x64x2", "axb", "-128x64", "1.5x2", "²x2"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ProblemError) as refusal:
        parse_tile(text)
    assert str(refusal.value) == (
        f"tile is {text!r}; write rows of Q x rows of K/V, for example 128x64"
    )


def test_a_tiling_prints_as_it_is_written() -> None:
    tiling = Tiling(128, 64)
    assert parse_tile(str(tiling)) == (tiling.tile_m, tiling.tile_n)


@pytest.mark.parametrize(
    ("tile", "side", "value"),
    [((8, 64), "tile_m", 8), ((0, 64), "tile_m", 0), ((64, 40), "tile_n", 40)],
)
def test_sides_are_whole_fragments(tile: tuple[int, int], side: str, value: int) -> None:
    with pytest.raises(ProblemError) as refusal:
        Tiling(*tile)
    assert str(refusal.value) == (
        f"tile {tile[0]}x{tile[1]}: {side} is {value}; "
        "it must be a multiple of 16, the rows of a tensor-core fragment"
    )
