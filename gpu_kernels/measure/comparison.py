"""Our kernels beside PyTorch's flash backend, from the rows of one run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gpu_kernels.measure.row_file import PROBLEM_COLUMNS, Row

OURS, THEIRS = "gpu-kernels", "pytorch-flash"
LEAST = {"fwd": 1.0, "bwd": 0.9}  # of their speed
JUDGED_HEAD_DIMS, JUDGED_LENGTH = ("64", "128"), 4096


@dataclass(frozen=True)
class Ratio:
    """One problem: how many times as fast as theirs ours is."""

    row: Row
    theirs_ms: float

    @property
    def speed(self) -> float:
        return self.theirs_ms / float(self.row["time_ms"])

    @property
    def judged(self) -> bool:
        """Whether the aim is set for it: heads of 64 and 128, 4096 keys and more."""
        long = int(self.row["seqlen_k"]) >= JUDGED_LENGTH
        return self.row["head_dim"] in JUDGED_HEAD_DIMS and long

    @property
    def reached(self) -> bool:
        return self.speed >= LEAST[self.row["direction"]]


def ratios(rows: Iterable[Row]) -> list[Ratio]:
    """Every problem that both ran, launched on a stream, with a warm L2."""

    def key(row: Row) -> tuple[str, ...]:
        return tuple(row[name] for name in ("gpu", "direction", "dtype", *PROBLEM_COLUMNS))

    timed = [
        row for row in rows if row["time_ms"] and (row["launch"], row["l2"]) == ("stream", "warm")
    ]
    theirs = {key(row): float(row["time_ms"]) for row in timed if row["implementation"] == THEIRS}
    return [
        Ratio(row, theirs[key(row)])
        for row in timed
        if row["implementation"] == OURS and key(row) in theirs
    ]


def table(rows: Iterable[Row]) -> str:
    """The comparison in lines; says so if there is none."""
    found = ratios(rows)
    if not found:
        return f"no problem was run by both {OURS} and {THEIRS}"
    return "\n".join((*_lines(found), "", *_summary(found)))


def _lines(found: list[Ratio]) -> Iterator[str]:
    shape = f"{'batch':>5} {'heads':>7} {'seqlen':>6} {'d':>4} {'mask':>6} {'dtype':>5}"
    yield f"{'':4}{shape} {OURS + ' ms':>14} {THEIRS + ' ms':>16} {'speed':>7}"
    for ratio in found:
        row = ratio.row
        heads = row["heads"]
        heads += "" if row["kv_heads"] == heads else f"/{row['kv_heads']}"
        mask = "causal" if row["causal"] == "true" else "full"
        yield (
            f"{row['direction']:4}{row['batch']:>5} {heads:>7} {row['seqlen_k']:>6} "
            f"{row['head_dim']:>4} {mask:>6} {row['dtype']:>5} {float(row['time_ms']):>14.4f} "
            f"{ratio.theirs_ms:>16.4f} {ratio.speed:>6.2f}x"
            f"{' below the aim' if ratio.judged and not ratio.reached else ''}"
        )


def _summary(found: list[Ratio]) -> Iterator[str]:
    for direction, least in LEAST.items():
        judged = [r for r in found if r.judged and r.row["direction"] == direction]
        if judged:
            reached = sum(ratio.reached for ratio in judged)
            yield (
                f"{direction}: at least {least:g}x on {reached} of {len(judged)} "
                f"(head_dim 64 and 128, {JUDGED_LENGTH} keys and more); "
                f"lowest {min(ratio.speed for ratio in judged):.2f}x"
            )
