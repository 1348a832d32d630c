"""Which tiles a loop visits, against the mask written out pair by pair."""

import itertools
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from fasim.problem import Attention
from fasim.schedules.flash2 import kernels
from fasim.schedules.language import Kernel, Rows
from fasim.schedules.mapping import Mapping
from fasim.schedules.record import Loop
from fasim.schedules.tiling import Tiling
from fasim.schedules.visits import Span, spans, visible_keys, visible_rows, visit

lengths = st.integers(1, 120)
reaches = st.integers(-1, 130)
windows = st.none() | st.tuples(reaches, reaches)
tile_sides = st.sampled_from((16, 32, 48))


def kernel_of(problem: Attention, tile_m: int, tile_n: int) -> Kernel:
    (kernel,) = kernels(problem, Tiling(tile_m, tile_n), Mapping(4))
    return kernel


def sees(problem: Attention, row: int, key: int) -> bool:
    own = row + problem.seqlen_k - problem.seqlen_q
    left, right = (-1, 0) if problem.causal else problem.window or (-1, -1)
    return (left < 0 or key >= own - left) and (right < 0 or key <= own + right)


@given(
    q=lengths,
    k=lengths,
    tile_m=tile_sides,
    tile_n=tile_sides,
    causal=st.booleans(),
    window=windows,
)
@settings(max_examples=200, deadline=None)
def test_visits_are_the_tiles_with_something_to_see(
    q: int, k: int, tile_m: int, tile_n: int, causal: bool, window: tuple[int, int] | None
) -> None:
    problem = Attention(1, 1, q, k, 16, causal=causal, window=window)
    kernel = kernel_of(problem, tile_m, tile_n)
    for outer, inner in (("q", "k"), ("k", "q")):
        loop = Loop(0, inner, Rows(outer, kernel.tile(outer), "own"), ())
        for own in spans(kernel, outer):
            visited, hidden = [], 0
            for span in spans(kernel, inner):
                pairs = [
                    sees(problem, *((a, b) if outer == "q" else (b, a)))
                    for a in range(own.start, own.stop)
                    for b in range(span.start, span.stop)
                ]
                if any(pairs):
                    visited.append(span)
                    hidden += not all(pairs)
            found = visit(kernel, loop, own)
            assert list(found.spans()) == visited
            assert found.trips == len(visited)
            assert found.rows == sum(span.length for span in visited)
            assert found.masked == hidden


@given(q=lengths, k=lengths, causal=st.booleans(), window=windows)
def test_visible_rows_keys_and_pairs(
    q: int, k: int, causal: bool, window: tuple[int, int] | None
) -> None:
    problem = Attention(1, 1, q, k, 16, causal=causal, window=window)
    seen = [(i, j) for i, j in itertools.product(range(q), range(k)) if sees(problem, i, j)]
    assert problem.visible_pairs == len(seen)
    assert visible_rows(problem) == len({row for row, _ in seen})
    assert visible_keys(problem) == len({key for _, key in seen})


def test_a_loop_over_everything_visits_everything() -> None:
    kernel = kernel_of(Attention(1, 1, 100, 100, 16, causal=True), 32, 48)
    found = visit(kernel, Loop(0, "k", None, ()), Span(0, 32))
    assert (
        list(found.spans())
        == [Span(0, 48), Span(48, 96), Span(96, 100)]
        == list(spans(kernel, "k"))
    )
    assert found.masked == 0


def test_a_kernel_counts_its_tiles_and_blocks() -> None:
    kernel = kernel_of(Attention(3, 4, 100, 50, 40, kv_heads=2), 32, 48)
    assert kernel.grid_shape == (4, 3, 4)
    assert kernel.blocks == 48
    assert kernel.tile_count("k") == 2
    assert (kernel.padded("d"), kernel.padded("k")) == (40, 50)
    padded = replace(kernel, tiles={**kernel.tiles, "d": 64})
    assert padded.padded("d") == 64
