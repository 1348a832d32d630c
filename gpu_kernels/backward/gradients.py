"""dQ, dK and dV: the kernels of backward, one after the other."""

from __future__ import annotations

import torch

from gpu_kernels import tiles
from gpu_kernels.backward.group_sums import group_sum, group_sum_variant
from gpu_kernels.backward.keys import key_value_pass, key_value_variant
from gpu_kernels.backward.preprocess import preprocess, preprocess_variant
from gpu_kernels.backward.queries import query_pass, query_variant
from gpu_kernels.forward import LOG2_E
from gpu_kernels.tiles import Pick
from gpu_kernels.variant import Variant


def backward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    do: torch.Tensor,
    *,
    causal: bool = False,
    keys: Pick | None = None,
    queries: Pick | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dQ, dK, dV), contiguous, shaped as q, k and v.

    Args:
        q, k, v, o, lse: as `forward` took and gave them.
        do: the gradient of o, shaped as q, in any strides with contiguous head_dim.
        keys, queries: tile, warps and stages of the two passes; the table's unless given.

    Raises:
        ProblemError: shapes or a dtype that the kernels do not take.
    """
    problem = tiles.problem_of(q, k, v, causal=causal)
    arch = tiles.architecture(q)
    keys = keys or tiles.keys(arch, problem.head_dim)
    queries = queries or tiles.queries(arch, problem.head_dim)
    delta = preprocess(o, do)
    read = {"Q": q, "K": k, "V": v, "dO": do, "LSE": lse, "delta": delta}
    scalars = (
        *(stride for tensor in (q, k, v, do) for stride in tensor.stride()[:3]),
        problem.seqlen_q,
        problem.seqlen_k,
        problem.scale * LOG2_E,
        problem.scale,
    )
    dk, dv = key_value_pass(problem, read, scalars, keys)
    dk, dv = group_sum("dK", dk, problem.kv_heads), group_sum("dV", dv, problem.kv_heads)
    return query_pass(problem, read, scalars, queries), dk, dv


def variants(arch: str) -> list[Variant]:
    """The kernels as they are compiled for whole tiles of the table."""
    found = []
    for problem in tiles.usual_problems():
        found += [key_value_variant(arch, problem), query_variant(arch, problem)]
        if not problem.causal:
            found += [preprocess_variant(problem), group_sum_variant(problem)]
    return found
