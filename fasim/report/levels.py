"""A prediction opened below the kernel: blocks on SM slots, and what a warp issues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fasim.report.tables import table
from fasim.simulator.kernel_work import LoweredKernel
from fasim.simulator.sm_engine import TraceEvent, trace
from fasim.simulator.work import TICKS_PER_SECOND
from fasim.verbs.prediction import Prediction

SHOWN_BLOCKS = 24  # of the first SM
SHOWN_ISSUES = 60  # of the first warp
MICROSECONDS = 1e6 / TICKS_PER_SECOND


def level_text(prediction: Prediction, level: str) -> str:
    """What to add to a printed prediction; nothing at kernel level."""
    if level == "kernel" or prediction.simulation is None:
        return ""
    parts = []
    for kernel in prediction.simulation.kernels:
        name = kernel.record.kernel.name
        body = _blocks(prediction, name) if level == "block" else _issues(prediction, name)
        parts.append(f"{name}\n{body}")
    return "\n\n" + "\n\n".join(parts)


def level_dict(prediction: Prediction, level: str) -> dict[str, Any]:
    """The same for JSON: `blocks` or `warps`, by kernel."""
    if level == "kernel" or prediction.simulation is None:
        return {}
    opened: dict[str, Any] = {}
    for kernel in prediction.simulation.kernels:
        name = kernel.record.kernel.name
        if level == "block":
            timeline = kernel.result.timeline
            opened[name] = [span._asdict() for span in timeline.spans] if timeline else []
        else:
            opened[name] = [event._asdict() for event in _trace(prediction, kernel.lowered)]
    return {"blocks" if level == "block" else "warps": opened}


def _blocks(prediction: Prediction, name: str) -> str:
    """The phases of the blocks on the first SM, in time."""
    assert prediction.simulation is not None
    kernel = next(k for k in prediction.simulation.kernels if k.record.kernel.name == name)
    timeline = kernel.result.timeline
    spans = [span for span in timeline.spans if span.sm == 0] if timeline else []
    rows = [
        (
            str(span.block),
            str(span.slot),
            span.block_class,
            span.phase,
            f"{span.start_ticks * MICROSECONDS:.2f}",
            f"{span.end_ticks * MICROSECONDS:.2f}",
        )
        for span in sorted(spans, key=lambda span: span.start_ticks)[:SHOWN_BLOCKS]
    ]
    header = ("block on SM 0", "slot", "class", "phase", "from us", "to us")
    return table(header, rows, left=4)


def _trace(prediction: Prediction, lowered: LoweredKernel) -> list[TraceEvent]:
    """Issues of the second iteration of a main loop with the SM full; the first fills it."""
    if lowered.stream is None:
        return []
    assert prediction.hardware is not None
    return trace(
        lowered.stream.plain,
        lowered.work.blocks_per_sm,
        barrier_cycles=round(prediction.hardware.sm.barrier_cycles),
        iterations=2,
    )


def _issues(prediction: Prediction, name: str) -> str:
    assert prediction.simulation is not None
    kernel = next(k for k in prediction.simulation.kernels if k.record.kernel.name == name)
    events = [e for e in _trace(prediction, kernel.lowered) if e.block == 0 and e.warp == 0]
    if not events:
        return "a streaming kernel: its warps are not simulated issue by issue"
    rows = [
        (e.item, e.pipe, str(e.issued), str(e.start), str(e.end), str(e.waited), e.cause)
        for e in events[len(events) // 2 :][:SHOWN_ISSUES]
    ]
    header = ("a warp's item", "pipe", "issued", "served from", "to", "waited", "for")
    return table(header, rows, left=2)


def write_trace(prediction: Prediction, path: Path) -> None:
    """The simulated blocks as a Chrome trace; gzipped if the name ends in .gz."""
    import gzip

    from fasim.simulator.result import ChainResult

    kernels = prediction.simulation.kernels if prediction.simulation is not None else ()
    document = json.dumps(ChainResult(tuple(k.result for k in kernels)).chrome_trace())
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(document.encode()))
    else:
        path.write_text(document, encoding="utf-8")
