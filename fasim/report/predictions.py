"""A prediction, or several side by side, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fasim.problem import Attention, Scenario
from fasim.readings.traffic import Level, total
from fasim.report.quantities import (
    bytes_text,
    count_text,
    percent_text,
    ratio_text,
    time_text,
)
from fasim.report.tables import table
from fasim.verbs.host_transfer import HostTransfer
from fasim.verbs.intensity import Intensity
from fasim.verbs.prediction import LEVELS, MODELLED, Prediction

if TYPE_CHECKING:
    from fasim.verbs.compare import Comparison

SHOWN_ELASTICITIES = 3
MOST_OPENED = 4  # predictions side by side whose tensors are listed too
SMALL_SHARE = 0.005  # causes under half a percent of the time are not worth a line


def problem_line(problem: Attention) -> str:
    """The problem in a line."""
    heads = f"{problem.heads} heads"
    if problem.kv_heads != problem.heads:
        heads += f" ({problem.kv_heads} of keys and values)"
    mask = "causal" if problem.causal else "no mask"
    if problem.window:
        mask = f"window {problem.window[0]},{problem.window[1]}"
    if problem.dropout:
        mask += f", dropout {problem.dropout:g}"
    return (
        f"{problem.direction}: batch {problem.batch}, {heads}, {problem.seqlen_q} queries x "
        f"{problem.seqlen_k} keys, head dimension {problem.head_dim}, {problem.dtype}, {mask}"
    )


def scenario_line(scenario: Scenario) -> str:
    """The scenario in a line."""
    launched = "kernel alone" if scenario.launch == "kernel" else f"launched on a {scenario.launch}"
    host = "" if scenario.host == "none" else f", to and from the host over {scenario.host}"
    length = scenario.run_length
    run = f"{length} run" if isinstance(length, str) else f"run of {time_text(length)}"
    return f"{launched}, {scenario.l2} L2, {run}{host}"


def prediction_text(prediction: Prediction) -> str:
    """One prediction: time and what bounds it, bytes, memory, kernels."""
    parts = [
        f"{prediction.name} on {prediction.gpu} ({prediction.gpu_title})",
        f"{problem_line(prediction.problem)}\n"
        f"tile {prediction.tile_name}; {scenario_line(prediction.scenario)}",
        f"{_summary(prediction)}\n{intensity_line(prediction.intensity)}\n{_trust(prediction)}",
    ]
    parts += details(prediction)
    parts += notes(prediction.changes, prediction.assumptions)
    return "\n\n".join(parts)


def details(prediction: Prediction) -> list[str]:
    """Where the time goes, bytes, kernels and memory, in tables."""
    stalls = [f"{_stalls(prediction)}\n{_elasticities(prediction)}"] if prediction.stalls_s else []
    host = [_host(prediction.host)] if prediction.host else []
    return [*stalls, _bytes(prediction), _kernels(prediction), *host, _memory(prediction)]


def _host(host: HostTransfer) -> str:
    return (
        f"host: {bytes_text(host.in_bytes)} in and {bytes_text(host.out_bytes)} out over "
        f"{host.link}: {time_text(host.time_s)}, overlapped by nothing"
    )


def intensity_line(found: Intensity) -> str:
    """Operations a byte, the ridge point, and on which side of it they are."""
    each, ridge = (
        f"{value:.0f}" if value >= 100 else f"{value:.3g}"
        for value in (found.flops_per_byte, found.ridge_flops_per_byte)
    )
    return (
        f"arithmetic intensity {each} FLOP/B, ridge point {ridge} "
        f"({found.unit} over DRAM): {found.bound}-bound"
    )


def comparison_text(comparison: Comparison) -> str:
    """Predictions side by side; of a few, the bytes of each by tensor and level too."""
    parts = []
    opened = len(comparison.rows) <= MOST_OPENED
    if comparison.rows:
        first = comparison.rows[0].prediction
        where = "" if _several_gpus(comparison) else f"{first.gpu} ({first.gpu_title})\n"
        parts.append(f"{where}{problem_line(first.problem)}\n{scenario_line(first.scenario)}")
        parts += [_side_by_side(comparison), _levels_side_by_side(comparison)]
        for row in comparison.rows if opened else ():
            prediction = row.prediction
            heading = f"{prediction.name} on {prediction.gpu}, tile {prediction.tile_name}"
            parts.append(f"{heading}: bytes by tensor\n{_bytes(prediction)}")
            if len(prediction.kernels) > 1:
                parts.append(
                    f"{heading}: matrix accesses, kernel by kernel (compulsory)\n"
                    + _accesses(prediction)
                )
    if comparison.refused:
        parts.append(
            "\n".join(f"refused: {r.schedule} on {r.gpu}: {r.reason}" for r in comparison.refused)
        )
    said: dict[str, None] = {}
    changes: dict[str, None] = {}
    for row in comparison.rows:
        said |= dict.fromkeys(row.prediction.assumptions)
        changes |= dict.fromkeys(row.prediction.changes)
    if not opened:
        said = {"bytes by tensor, and what each rests on: `fasim predict`, or compare fewer": None}
    parts += notes(tuple(changes), tuple(said))
    return "\n\n".join(parts)


def _several_gpus(comparison: Comparison) -> bool:
    return len({row.prediction.gpu for row in comparison.rows}) > 1


def _summary(prediction: Prediction) -> str:
    if prediction.time_s is None:
        return (
            f"does not fit: {bytes_text(prediction.footprint.peak_bytes)} of device memory, "
            f"{prediction.gpu} has {bytes_text(prediction.capacity_bytes)}"
        )
    return (
        f"time {time_text(prediction.time_s)}   bound by {prediction.bound}   "
        f"{_rate(prediction)}"
        f"roofline {time_text(prediction.roofline_s)}   "
        f"memory {bytes_text(prediction.footprint.peak_bytes)} of "
        f"{bytes_text(prediction.capacity_bytes)}"
    )


def _trust(prediction: Prediction) -> str:
    trust = prediction.trust
    if trust.median_error is None or trust.p90_error is None:
        return f"trust: {trust.status}"
    text = (
        f"trust: {trust.status}, {trust.n} like cases: median error "
        f"{percent_text(trust.median_error)}, nine of ten within {percent_text(trust.p90_error)}"
    )
    if trust.band_ms is None:
        return text
    low, high = (time_text(ms / 1e3) for ms in trust.band_ms)
    return f"{text}: {low} to {high}"


def _rate(prediction: Prediction) -> str:
    rate = prediction.tflops_per_s
    return "" if rate is None else f"{rate:.4g} TFLOP/s   "


def _stalls(prediction: Prediction) -> str:
    assert prediction.time_s is not None
    total_s = prediction.time_s
    ordered = sorted(prediction.stalls_s.items(), key=lambda item: -item[1])
    shown = [(cause, s) for cause, s in ordered if s / total_s >= SMALL_SHARE]
    rest = total_s - sum(seconds for _, seconds in shown)
    rows = [(cause, time_text(s), percent_text(s / total_s)) for cause, s in shown]
    if len(shown) < len(ordered):
        names = ", ".join(cause for cause, s in ordered if s / total_s < SMALL_SHARE)
        rows.append((f"each under 0.5 %: {names}", time_text(rest), percent_text(rest / total_s)))
    return table(("a block slot's time goes to", "time", "share"), rows)


def _elasticities(prediction: Prediction) -> str:
    """The resources that would change the time most."""
    most = list(prediction.elasticities.items())[:SHOWN_ELASTICITIES]
    named = ", ".join(f"{resource} {value:+.2f}" for resource, value in most)
    return f"elasticities, % of time per % of a resource: {named}"


def _level_name(level: str) -> str:
    return f"{level}*" if level in MODELLED else level


def _bytes(prediction: Prediction) -> str:
    levels = [level for level in LEVELS if level in prediction.traffic]
    header = ["tensor"]
    for level in levels:
        header += [f"{_level_name(level)} read", "write"]
    names = list(prediction.traffic["global"])
    rows = [[name, *_cells(prediction.traffic, levels, name)] for name in names]
    rows.append(["all", *_cells(prediction.traffic, levels, None)])
    return "\n".join([table(header, rows), *_reductions(prediction)])


def _reductions(prediction: Prediction) -> list[str]:
    """What of the writes is added to memory rather than stored, by tensor."""
    return [
        f"of the writes to {name}, {bytes_text(access.reduce_bytes)} global are reductions: "
        "FP32 values added by L2"
        for name, access in prediction.traffic["global"].items()
        if access.reduce_bytes
    ]


def _cells(traffic: Mapping[str, Level], levels: list[str], name: str | None) -> list[str]:
    cells = []
    for level in levels:
        access = total(traffic[level]) if name is None else traffic[level].get(name)
        cells.append(bytes_text(access.read_bytes if access else 0))
        written = access.write_bytes + access.reduce_bytes if access else 0
        cells.append(bytes_text(written))
    return cells


def _accesses(prediction: Prediction) -> str:
    rows = []
    for kernel in prediction.kernels:
        for name, access in kernel.traffic["compulsory"].items():
            if access.read_bytes:
                rows.append((f"{kernel.name}: read {name}", bytes_text(access.read_bytes)))
            if access.write_bytes:
                rows.append((f"{kernel.name}: write {name}", bytes_text(access.write_bytes)))
            if access.reduce_bytes:
                rows.append((f"{kernel.name}: reduce {name}", bytes_text(access.reduce_bytes)))
    return table(("access", "bytes"), rows)


def _kernels(prediction: Prediction) -> str:
    rows = []
    for kernel in prediction.kernels:
        rows.append(
            (
                kernel.name,
                " x ".join(str(n) for n in kernel.grid),
                str(kernel.warps),
                bytes_text(kernel.shared_memory_bytes),
                str(kernel.registers_per_thread),
                str(kernel.blocks_per_sm),
                kernel.limiter,
                f"{kernel.waves:.2f}",
                time_text(kernel.time_s),
            )
        )
    header = (
        "kernel",
        "grid",
        "warps",
        "shared memory",
        "registers",
        "blocks/SM",
        "limited by",
        "waves",
        "time",
    )
    return table(header, rows)


def _memory(prediction: Prediction) -> str:
    held = ", ".join(
        f"{name} {bytes_text(size)}" for name, size in prediction.footprint.by_tensor.items()
    )
    operations = prediction.flops
    tensor = ""
    if operations.tensor:
        useful = percent_text(operations.tensor_useful / operations.tensor)
        tensor = f"tensor {count_text(operations.tensor)}FLOP ({useful} useful), "
    return (
        f"device memory: {held}\n"
        f"operations: {tensor}"
        f"fp32 {count_text(operations.fp32)}FLOP, sfu {count_text(operations.sfu)}op"
    )


def _side_by_side(comparison: Comparison) -> str:
    header = (
        "schedule",
        "gpu",
        "tile",
        "time",
        "speed-up",
        "bound by",
        "TFLOP/s",
        "roofline",
        "memory",
        "saved",
        "max error",
    )
    rows = []
    for row in comparison.rows:
        prediction = row.prediction
        speed = prediction.tflops_per_s
        rows.append(
            (
                prediction.name,
                prediction.gpu,
                prediction.tile_name,
                time_text(prediction.time_s) if prediction.fits else "does not fit",
                ratio_text(row.speedup),
                prediction.bound or "?",
                "?" if speed is None else f"{speed:.3g}",
                time_text(prediction.roofline_s),
                bytes_text(prediction.footprint.peak_bytes),
                ratio_text(row.memory_ratio),
                f"{row.accuracy.max_error:.1e}",
            )
        )
    return _without_one_gpu(comparison, header, rows, left=3)


def _without_one_gpu(
    comparison: Comparison, header: Sequence[str], rows: Sequence[Sequence[str]], left: int
) -> str:
    """The table; its second column, the GPU, only where there are several."""
    if _several_gpus(comparison):
        return table(header, rows, left=left)
    fewer = [(first, *rest) for first, _, *rest in rows]
    return table((header[0], *header[2:]), fewer, left=left - 1)


def _levels_side_by_side(comparison: Comparison) -> str:
    header = ["schedule", "gpu"]
    for level in LEVELS:
        header += [f"{_level_name(level)} read", "write"]
    rows = []
    for row in comparison.rows:
        prediction = row.prediction
        cells: list[str] = []
        for level in LEVELS:
            if level in prediction.traffic:
                cells += _cells(prediction.traffic, [level], None)
            else:
                cells += ["?", "?"]
        rows.append([prediction.name, prediction.gpu, *cells])
    return _without_one_gpu(comparison, header, rows, left=2)


def notes(changes: tuple[str, ...], assumptions: tuple[str, ...]) -> list[str]:
    """What overrides moved, and what a reader should know."""
    parts = []
    if changes:
        parts.append("\n".join(changes))
    if assumptions:
        parts.append("\n".join(f"* {line}" for line in assumptions))
    return parts
