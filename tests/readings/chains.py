"""Chains of kernels with any tile, built without a GPU, and problems to run them on."""

from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import strategies as st

from fasim.problem import DTYPE_BYTES, Attention
from fasim.schedules import flash1 as flash1_program
from fasim.schedules import flash2 as flash2_program
from fasim.schedules import standard as standard_programs
from fasim.schedules.implementations import megatron as megatron_programs
from fasim.schedules.implementations import pytorch as pytorch_programs
from fasim.schedules.language import Kernel
from fasim.schedules.mapping import Mapping
from fasim.schedules.standard import Gemm
from fasim.schedules.tiling import Tiling
from tests.readings.closed_forms import (
    Counted,
    Shape,
    flash1,
    flash2,
    megatron,
    pytorch,
    standard,
)

Kernels = tuple[Kernel, ...]


@dataclass(frozen=True)
class Tiles:
    tile_m: int
    tile_n: int
    k_step: int = 32


def one_buffer_each(names: str) -> Mapping:
    return Mapping(4, buffers=tuple((name, 1) for name in names))


def build_flash1(problem: Attention, tiles: Tiles) -> Kernels:
    tiling = Tiling(tiles.tile_m, tiles.tile_n)
    return flash1_program.kernels(problem, tiling, one_buffer_each("QKVO"))


def build_flash2(problem: Attention, tiles: Tiles) -> Kernels:
    tiling = Tiling(tiles.tile_m, tiles.tile_n, descending=True)
    return flash2_program.kernels(problem, tiling, one_buffer_each("QKV"))


def build_padded_flash2(problem: Attention, tiles: Tiles) -> Kernels:
    tiling = Tiling(tiles.tile_m, tiles.tile_n)
    return flash2_program.kernels(problem, tiling, one_buffer_each("QKV"), head_dim=96)


def gemm(tiles: Tiles) -> Gemm:
    return Gemm(tiles.tile_m, tiles.tile_n, tiles.k_step, stages=2, mapping=Mapping(4))


def build_standard(problem: Attention, tiles: Tiles) -> Kernels:
    rows = Mapping(4, matrix_unit="none", copy_unit="registers")
    return standard_programs.kernels(problem, gemm(tiles), rows, rows_per_block=4)


def build_pytorch(problem: Attention, tiles: Tiles) -> Kernels:
    return pytorch_programs.kernels(problem, gemm(tiles))


def build_megatron(problem: Attention, tiles: Tiles) -> Kernels:
    return megatron_programs.kernels(problem, gemm(tiles))


def closed_flash1(shape: Shape, tiles: Tiles) -> list[Counted]:
    return flash1(shape, tiles.tile_m, tiles.tile_n)


def closed_flash2(shape: Shape, tiles: Tiles) -> list[Counted]:
    return flash2(shape, tiles.tile_m, tiles.tile_n)


def closed_padded_flash2(shape: Shape, tiles: Tiles) -> list[Counted]:
    return flash2(shape, tiles.tile_m, tiles.tile_n, compiled_head_dim=96)


def closed_standard(shape: Shape, tiles: Tiles) -> list[Counted]:
    return standard(shape, tiles.tile_m, tiles.tile_n, tiles.k_step)


def closed_pytorch(shape: Shape, tiles: Tiles) -> list[Counted]:
    return pytorch(shape, tiles.tile_m, tiles.tile_n, tiles.k_step)


def closed_megatron(shape: Shape, tiles: Tiles) -> list[Counted]:
    return megatron(shape, tiles.tile_m, tiles.tile_n, tiles.k_step)


Build = Callable[[Attention, Tiles], Kernels]
ClosedForm = Callable[[Shape, Tiles], list[Counted]]

CHAINS: dict[str, tuple[Build, ClosedForm]] = {
    "flash1": (build_flash1, closed_flash1),
    "flash2": (build_flash2, closed_flash2),
    "flash2, padded head": (build_padded_flash2, closed_padded_flash2),
    "standard": (build_standard, closed_standard),
    "pytorch": (build_pytorch, closed_pytorch),
    "megatron": (build_megatron, closed_megatron),
}


def shape_of(problem: Attention) -> Shape:
    return Shape(
        batch=problem.batch,
        heads=problem.heads,
        kv_heads=problem.kv_heads,
        q_len=problem.seqlen_q,
        k_len=problem.seqlen_k,
        head_dim=problem.head_dim,
        element_bytes=DTYPE_BYTES[problem.dtype],
        causal=problem.causal,
        dropout=problem.dropout > 0,
        window=problem.window,
    )


@st.composite
def problems(
    draw: st.DrawFn,
    dtypes: tuple[str, ...] = tuple(DTYPE_BYTES),
    head_dims: tuple[int, ...] = (1, 8, 40, 64),
    *,
    dropout: bool = False,
    windows: bool = False,
) -> Attention:
    """Small ones: grouped heads, ragged lengths, more queries than keys and fewer.

    Args:
        dropout, windows: with them now and then; not every kernel has them.
    """
    kv_heads = draw(st.integers(1, 2))
    reach = st.integers(-1, 100)
    return Attention(
        batch=draw(st.integers(1, 2)),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        seqlen_q=draw(st.integers(1, 90)),
        seqlen_k=draw(st.integers(1, 90)),
        head_dim=draw(st.sampled_from(head_dims)),
        dtype=draw(st.sampled_from(dtypes)),
        causal=draw(st.booleans()),
        dropout=draw(st.sampled_from((0.0, 0.0, 0.1, 0.5))) if dropout else 0.0,
        dropout_seed=draw(st.integers(0, 3)) if dropout else 0,
        window=draw(st.none() | st.tuples(reach, reach)) if windows else None,
    )


def tile_sizes() -> st.SearchStrategy[Tiles]:
    sides = st.sampled_from((16, 32, 48, 64))
    return st.builds(Tiles, sides, sides, st.sampled_from((16, 32)))
