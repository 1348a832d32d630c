"""Which elements of P dropout keeps: a counter-based random number an element.

Kernels draw from Philox4x32-10 (Salmon et al. 2011), keyed by the seed, with the element's place
as the counter. Here SplitMix64's finaliser (Steele et al. 2014) stands in for it: as good a
hash, and one pass of integer arithmetic over an array. Bytes, errors and time do not depend on
which elements are dropped.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fasim.problem import Attention

RANDOM_BITS = 53  # of each number: as many as a float64 compares exactly
_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


def kept(
    problem: Attention, batch: int, head: int, queries: range, keys: range
) -> npt.NDArray[np.bool_]:
    """[queries, keys] of one head: whether an element of P is kept."""
    row = (batch * problem.heads + head) * problem.seqlen_q
    down = np.arange(row + queries.start, row + queries.stop, dtype=np.uint64)[:, None]
    across = np.arange(keys.start, keys.stop, dtype=np.uint64)[None, :]
    place = down * np.uint64(problem.seqlen_k) + across
    seeded = np.uint64((problem.dropout_seed + 1) * _GOLDEN & _WORD)
    numbers = _mixed(_mixed(place + seeded)) >> np.uint64(64 - RANDOM_BITS)
    return np.asarray(numbers >= problem.dropout * 2.0**RANDOM_BITS)


def factors(problem: Attention) -> npt.NDArray[np.float32]:
    """[batch, heads, seqlen_q, seqlen_k]: what P is multiplied by, 0 or 1/(1 − dropout)."""
    rows, keys = range(problem.seqlen_q), range(problem.seqlen_k)
    every = [
        [kept(problem, batch, head, rows, keys) for head in range(problem.heads)]
        for batch in range(problem.batch)
    ]
    return np.asarray(every, np.float32) * np.float32(1 / (1 - problem.dropout))


def _mixed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser: every bit of the result depends on every bit of the number."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
