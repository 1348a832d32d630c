"""Rows of a run: what was measured, how, on what; and the ids by which a run is resumed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from fasim.problem import Attention
from gpu_kernels.measure.environment import Environment
from gpu_kernels.measure.row_file import PROBLEM_COLUMNS, Row
from gpu_kernels.measure.telemetry import Telemetry
from gpu_kernels.measure.timing import Timing

DIRECTIONS = {"forward": "fwd", "backward": "bwd"}
STEADY = 0.05  # a spread of this share of the time, and less, earns high confidence


def attention_id(
    gpu: str, implementation: str, problem: Attention, launch: str, l2: str, last: str = ""
) -> str:
    """The same for the same measurement, whoever makes it when."""
    heads = f"h{problem.heads}" + (f"/{problem.kv_heads}" if problem.group > 1 else "")
    lengths = f"q{problem.seqlen_q} k{problem.seqlen_k} d{problem.head_dim}"
    mask = "causal" if problem.causal else "full"
    direction = DIRECTIONS[problem.direction]
    shape = f"b{problem.batch} {heads} {lengths} {mask} {problem.dtype}"
    return " ".join(filter(None, (gpu, implementation, direction, shape, launch, l2, last)))


def device_id(gpu: str, operator: str, *details: object) -> str:
    """Of a device fact; `details` are sizes and types."""
    return " ".join(map(str, (gpu, operator, *details)))


@dataclass(frozen=True)
class RowMaker:
    """Makes rows with the provenance of this run."""

    environment: Environment
    telemetry: Telemetry
    suite: str

    def attention(
        self,
        row_id: str,
        implementation: str,
        schedule: str,
        problem: Attention,
        launch: str,
        l2: str,
        timing: Timing | None = None,
        **cells: str,
    ) -> Row:
        """A row of attention; without a timing its cells say what was measured instead."""
        sizes = {name: str(getattr(problem, name)) for name in PROBLEM_COLUMNS}
        sizes["causal"] = sizes["causal"].lower()
        sizes["dropout"] = f"{problem.dropout:g}"
        times = {} if timing is None else {"time_ms": number(timing.time_ms)}
        return {
            "id": row_id,
            "implementation": implementation,
            "schedule": schedule,
            "direction": DIRECTIONS[problem.direction],
            "dtype": problem.dtype,
            **sizes,
            "launch": launch,
            "l2": l2,
            **times,
            **self._how(timing),
            **self._where(),
            **cells,
        }

    def device(
        self,
        row_id: str,
        operator: str,
        metric: str,
        value: float,
        timing: Timing | None = None,
        **cells: str,
    ) -> Row:
        """A row of a device fact: `m`, `n`, `k` and `dtype` are among the cells."""
        return {
            "id": row_id,
            "operator": operator,
            "metric": metric,
            "value": number(value),
            **self._how(timing),
            **self._where(),
            **cells,
        }

    def _how(self, timing: Timing | None) -> dict[str, str]:
        if timing is None:
            return {}
        steady = timing.spread_ms <= STEADY * timing.time_ms
        cells = {
            "timer": timing.timer,
            "spread_ms": number(timing.spread_ms),
            "repeats": str(len(timing.times_ms)),
            "confidence": "high" if steady else "med",
        }
        found = self.telemetry.typical(timing.begin_s, timing.end_s)
        if found is not None:
            cells["clock_mhz"], cells["power_w"] = (number(value) for value in found)
        return cells

    def _where(self) -> dict[str, str]:
        environment = self.environment
        return {
            "gpu": environment.gpu,
            "device": environment.device,
            "driver": environment.driver,
            "ecc": environment.ecc,
            "mig": environment.mig,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "source": f"python -m gpu_kernels.measure --suite {self.suite}",
            "software": environment.software,
        }


def number(value: float) -> str:
    """Six digits."""
    return f"{value:.6g}"
