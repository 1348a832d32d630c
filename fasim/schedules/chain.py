"""What the kernels of a chain share."""

from __future__ import annotations

from fasim.problem import Attention


def axes_of(problem: Attention) -> dict[str, int]:
    """Length of every axis that attention's tensors are declared by."""
    return {
        "batch": problem.batch,
        "head": problem.heads,
        "kv_head": problem.kv_heads,
        "q": problem.seqlen_q,
        "k": problem.seqlen_k,
        "d": problem.head_dim,
    }
