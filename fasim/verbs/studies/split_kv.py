"""`fasim study split-kv`: from how many keys on it pays to split them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fasim.problem import Attention, Scenario
from fasim.schedules import catalog
from fasim.schedules.plan import Options, Refused
from fasim.verbs.predict import predict

if TYPE_CHECKING:
    from fasim.hardware import Profile

LENGTHS = tuple(256 * 2**doubling for doubling in range(10))  # 256 … 128 K keys


@dataclass(frozen=True)
class Decoded:
    """Decode with and without splits of the keys, in seconds.

    Attributes:
        num_splits: that FlashAttention-2's heuristic takes; 1 where it would not split.
    """

    seqlen_k: int
    num_splits: int
    decode_s: float
    split_s: float

    @property
    def speedup(self) -> float:
        return self.decode_s / self.split_s


@dataclass(frozen=True)
class Crossover:
    """The number of keys from which on splitting is faster; None if it never is.

    Attributes:
        blocks: of decode without splits, batch × key/value heads.
    """

    blocks: int
    seqlen_k: int | None


@dataclass(frozen=True)
class SplitKvStudy:
    """Decode of one problem over the number of keys, and the crossover over its blocks."""

    gpu: str
    sm_count: int
    problem: Attention
    scenario: Scenario
    rows: tuple[Decoded, ...]
    crossovers: tuple[Crossover, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "gpu": self.gpu,
            "sm_count": self.sm_count,
            "rows": [
                {
                    "seqlen_k": row.seqlen_k,
                    "num_splits": row.num_splits,
                    "decode_ms": row.decode_s * 1e3,
                    "split_kv_ms": row.split_s * 1e3,
                    "speedup": row.speedup,
                }
                for row in self.rows
            ],
            "crossovers": [
                {"blocks": each.blocks, "seqlen_k": each.seqlen_k} for each in self.crossovers
            ],
        }


def split_kv_study(
    problem: Attention,
    profile: Profile,
    scenario: Scenario | None = None,
    *,
    batches: Sequence[int] = (),
) -> SplitKvStudy:
    """Times of decode and split-KV over the number of keys, and where they cross.

    Args:
        problem: its seqlen_k is not used.
        batches: for which to look for the crossover; by default up to a block a slot of the GPU.

    Raises:
        Refused: the GPU cannot run it.
    """
    scenario = scenario or Scenario()
    if not batches:
        most = max(1, 2 * profile.gpu.sm_count // problem.kv_heads)
        batches = sorted({max(1, most >> halving) for halving in range(6)})
    return SplitKvStudy(
        profile.resolved_name,
        profile.gpu.sm_count,
        problem,
        scenario,
        tuple(decoded(problem, profile, length, scenario) for length in LENGTHS),
        tuple(
            Crossover(
                batch * problem.kv_heads,
                crossover(replace(problem, batch=batch), profile, scenario),
            )
            for batch in batches
        ),
    )


def crossover(
    problem: Attention, profile: Profile, scenario: Scenario, lengths: Sequence[int] = LENGTHS
) -> int | None:
    """The number of keys from which on splitting them is faster than not, in whole tiles.

    Exact between the longest of `lengths` at which it is not and the next; None if it is not at
    the longest of all.
    """
    slower = 0
    faster: int | None = None
    for length in sorted(lengths, reverse=True):
        if decoded(problem, profile, length, scenario).speedup <= 1:
            slower = length
            break
        faster = length
    if faster is None:
        return None
    planned = catalog.plan(replace(problem, seqlen_k=faster), profile.gpu, "decode")
    tile = planned.tile[1]
    while faster - slower > tile:
        middle = (faster + slower) // 2 // tile * tile
        if middle <= slower:
            break
        if decoded(problem, profile, middle, scenario).speedup > 1:
            faster = middle
        else:
            slower = middle
    return faster


def decoded(problem: Attention, profile: Profile, seqlen_k: int, scenario: Scenario) -> Decoded:
    """Decode of so many keys, in one piece and in as many as the heuristic takes.

    Raises:
        Refused: the GPU cannot run it, or its memory does not hold it.
    """
    sized = replace(problem, seqlen_k=seqlen_k)
    splits = catalog.plan(sized, profile.gpu, "split_kv").num_splits
    whole = predict(sized, profile, scenario, schedule="decode").time_s
    split = whole
    if splits > 1:
        options = Options(num_splits=splits)
        split = predict(sized, profile, scenario, schedule="split_kv", options=options).time_s
    if whole is None or split is None:
        raise Refused("split-kv", f"{seqlen_k} keys do not fit {profile.resolved_name}")
    return Decoded(seqlen_k, splits, whole, split)
