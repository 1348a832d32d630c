"""The GEMM tile that is taken where the library's choice is not public."""

import pytest

from fasim.hardware import load
from fasim.problem import Attention
from fasim.schedules import catalog
from fasim.schedules.implementations.cublas import TILES, usual_tile
from fasim.schedules.plan import Options, Tile
from fasim.verbs.predict import predict


@pytest.mark.parametrize(
    ("gpu", "seqlen", "tile"),
    [
        # A block's operands take longer than its products there: 1800 cycles to 1024.
        ("h100", 4096, (128, 256)),
        ("h200", 1024, (128, 256)),
        # Few rows: half of a tile of 128 would be empty.
        ("h100", 64, (64, 128)),
        ("a100", 4096, (128, 128)),
        ("rtx4090", 64, (128, 128)),
    ],
)
def test_tiles(gpu: str, seqlen: int, tile: Tile) -> None:
    assert usual_tile(Attention(4, 16, seqlen, seqlen, 128), load(gpu).gpu) == tile
    problem = Attention(4, 16, seqlen, seqlen, 128)
    assert catalog.plan(problem, load(gpu).gpu, implementation="pytorch").tile == tile


def test_the_formula_finds_what_is_fastest_when_simulated() -> None:
    problem = Attention(2, 16, 4096, 4096, 128)
    profile = load("h100")
    times = {}
    for tile in TILES:
        found = predict(problem, profile, implementation="pytorch", options=Options(tile))
        times[tile] = next(k.time_s for k in found.kernels if k.name == "query_key")
    assert min(times, key=lambda tile: times[tile]) == usual_tile(problem, profile.gpu)
