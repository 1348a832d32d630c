"""Tiles, warps and stages of the kernels: those of fasim's tables, by architecture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from itertools import product
from typing import TYPE_CHECKING

from fasim.problem import Attention, Dtype, ProblemError
from fasim.schedules.implementations import gpu_kernels as table
from fasim.schedules.implementations import (
    gpu_kernels_decode,
    gpu_kernels_standard,
    pytorch,
    textbook_softmax,
)

if TYPE_CHECKING:
    import torch

HEAD_DIMS = (16, 32, 64, 128)
USUAL_LENGTH = 4096


@dataclass(frozen=True)
class Pick:
    """What a launch is compiled with. `tile_k`: a step along the contracted side of a GEMM."""

    tile_m: int
    tile_n: int
    warps: int = 4
    stages: int = 2
    tile_k: int = 0


def architecture(tensor: torch.Tensor) -> str:
    """sm_80, sm_90 … of the GPU that holds a tensor; sm_80 for one on the CPU, interpreted."""
    import torch

    if not tensor.is_cuda:
        return "sm_80"
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return f"sm_{major}{minor}"


def problem_of(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, dropout: float = 0.0
) -> Attention:
    """The problem that Q, K and V make.

    Raises:
        ProblemError: shapes that do not belong together, a head_dim or dtype no kernel takes.
    """
    batch, heads, seqlen_q, head_dim = q.shape
    kv_heads, seqlen_k = k.shape[1:3]
    if k.shape != v.shape or (k.shape[0], k.shape[3]) != (batch, head_dim):
        raise ProblemError(
            f"Q is {tuple(q.shape)}, K {tuple(k.shape)} and V {tuple(v.shape)}; K and V must be "
            f"[{batch}, kv_heads, seqlen_k, {head_dim}]"
        )
    if head_dim not in HEAD_DIMS:
        raise ProblemError(f"head_dim is {head_dim}; the kernels take 16, 32, 64 and 128")
    names = {"torch.float16": "fp16", "torch.bfloat16": "bf16"}
    if not q.dtype == k.dtype == v.dtype or str(q.dtype) not in names:
        raise ProblemError(f"Q is {q.dtype}, K {k.dtype}, V {v.dtype}; one of float16, bfloat16")
    if any(tensor.stride(3) != 1 for tensor in (q, k, v)):
        raise ProblemError("head_dim must be contiguous in Q, K and V")
    return Attention(
        batch,
        heads,
        seqlen_q,
        seqlen_k,
        head_dim,
        kv_heads,
        names[str(q.dtype)],  # type: ignore[arg-type]
        causal,
        dropout=dropout,
    )


def usual_problems(
    *, head_dims: tuple[int, ...] = (64, 128), masks: tuple[bool, ...] = (False, True)
) -> Iterator[Attention]:
    """What the kernels are compiled for ahead of time: lengths of whole tiles."""
    for head_dim, causal, dtype in product(head_dims, masks, ("fp16", "bf16")):
        yield Attention(1, 1, USUAL_LENGTH, USUAL_LENGTH, head_dim, dtype=dtype, causal=causal)


def forward(arch: str, head_dim: int) -> Pick:
    """Of `flash2_forward`."""
    return Pick(*astuple(table.picks(arch, head_dim).forward))


def keys(arch: str, head_dim: int) -> Pick:
    """Of `key_value_pass`: a block owns tile_n keys and takes tile_m queries a step."""
    return Pick(*astuple(table.picks(arch, head_dim).keys))


def queries(arch: str, head_dim: int) -> Pick:
    """Of `query_pass`: a block owns tile_m queries and takes tile_n keys a step."""
    return Pick(*astuple(table.picks(arch, head_dim).queries))


def gemm(
    arch: str,
    head_dim: int,
    dtype: Dtype,
    *,
    head_wide: bool,
    tile: tuple[int, int] | None = None,
) -> Pick:
    """Of the products of standard attention. `head_wide`: its columns are those of a head."""
    tile_m, tile_n = tile or gpu_kernels_standard.TILE
    if head_wide:
        tile_n = min(tile_n, -(-head_dim // 32) * 32)
    return Pick(
        tile_m,
        tile_n,
        gpu_kernels_standard.warps(tile_n),
        gpu_kernels_standard.stages(arch),
        gpu_kernels_standard.step(arch, dtype),
    )


def rows(seqlen_k: int) -> Pick:
    """Of the softmax and dropout kernels of standard attention: whole rows, padded to 2ⁿ."""
    warps, rows_per_block = pytorch.softmax_block(seqlen_k)
    return Pick(rows_per_block, 1 << (seqlen_k - 1).bit_length(), warps)


def softmax() -> Pick:
    """Of the three softmax kernels alone."""
    return Pick(*textbook_softmax.TILE, textbook_softmax.WARPS)


def decode() -> Pick:
    """Of `decode` and `split_kv`."""
    return Pick(*astuple(gpu_kernels_decode.PICK))
