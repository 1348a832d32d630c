"""What the kernels of a chain share: the axes of attention, and those of its tensors."""

from __future__ import annotations

from fasim.problem import Attention

QUERY = ("batch", "head", "q", "d")  # Q and O
KEY = ("batch", "kv_head", "k", "d")  # K and V
KEY_BY_QUERY_HEAD = ("batch", "kv_head", "group", "k", "d")  # dK and dV before the group's sum
SCORES = ("batch", "head", "q", "k")  # S and P
ROWS = ("batch", "head", "q")  # one value a query: LSE, row_max, row_sum
PAGE_TABLE = ("batch", "page")  # where in the pool each page of a sequence lies


def axes_of(problem: Attention) -> dict[str, int]:
    """Length of every axis that attention's tensors are declared by."""
    return {
        "batch": problem.batch,
        "head": problem.heads,
        "kv_head": problem.kv_heads,
        "group": problem.group,
        "q": problem.seqlen_q,
        "k": problem.seqlen_k,
        "d": problem.head_dim,
    }
