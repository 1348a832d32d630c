"""Which block was where and when, for a look at a simulated kernel in a trace viewer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

TICKS_PER_MICROSECOND = 1_000_000


class Span(NamedTuple):
    """One block on one slot in one phase, from `start_ticks` up to `end_ticks`.

    `phase` is "prologue", "loop", "epilogue", or "dram" while the block waits for bytes.
    """

    sm: int
    slot: int
    block: int
    block_class: str
    phase: str
    start_ticks: int
    end_ticks: int


class Skip(NamedTuple):
    """Blocks that were not simulated one by one, as they repeat what came before."""

    blocks: int
    start_ticks: int
    end_ticks: int


@dataclass(slots=True)
class Timeline:
    """The spans of one kernel in order of their end, and what was skipped between them.

    Tick 0 is the start of the launch. The spans of a slot do not overlap. A phase that a skip
    fell into is shown once, as that of the equal block that runs when the skip ends.
    """

    spans: list[Span] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)

    def events(self, start_ticks: int = 0) -> list[dict[str, Any]]:
        """Chrome-trace events: a process per SM, a thread per slot; `ts` and `dur` in µs.

        Args:
            start_ticks: where the kernel's tick 0 lies in the trace.
        """
        trace: list[dict[str, Any]] = [
            {
                "ph": "X",
                "cat": span.phase,
                "name": f"{span.block_class} {span.phase}",
                "pid": span.sm,
                "tid": span.slot,
                "ts": (span.start_ticks + start_ticks) / TICKS_PER_MICROSECOND,
                "dur": (span.end_ticks - span.start_ticks) / TICKS_PER_MICROSECOND,
                "args": {"block": span.block},
            }
            for span in self.spans
        ]
        trace.extend(
            {
                "ph": "X",
                "cat": "skipped",
                "name": f"{skip.blocks} blocks repeat what came before",
                "pid": "skipped",
                "tid": 0,
                "ts": (skip.start_ticks + start_ticks) / TICKS_PER_MICROSECOND,
                "dur": (skip.end_ticks - skip.start_ticks) / TICKS_PER_MICROSECOND,
                "args": {"blocks": skip.blocks},
            }
            for skip in self.skips
        )
        return trace


def chrome_trace(kernels: Iterable[tuple[int, Timeline]]) -> dict[str, Any]:
    """A Chrome trace, in torch.profiler's field names, of timelines with their start ticks."""
    events: list[dict[str, Any]] = []
    for start_ticks, timeline in kernels:
        events += timeline.events(start_ticks)
    sms = sorted({event["pid"] for event in events if event["cat"] != "skipped"})
    names = [
        {"ph": "M", "name": "process_name", "pid": sm, "args": {"name": f"SM {sm}"}} for sm in sms
    ]
    return {"schemaVersion": 1, "displayTimeUnit": "ns", "traceEvents": names + events}
