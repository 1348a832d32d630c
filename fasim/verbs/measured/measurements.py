"""A measurement: what of a row is a problem fasim can predict."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from fasim.problem import Attention, ProblemError, Scenario
from fasim.schedules.plan import Options
from fasim.verbs.measured.versions import accumulates_grads

TRUE, FALSE = ("true", "1"), ("false", "0")
DIRECTIONS = {"fwd": "forward", "bwd": "backward", "fwd+bwd": "both"}
PAGE_SIZE = 16  # keys in a page where a row does not say: vLLM's default


class MeasurementError(ValueError):
    """A file of measurements that cannot be read; the message says where and why."""


class Unsupported(Exception):
    """A measurement that fasim has no prediction for, and why."""


@dataclass(frozen=True)
class Measurement:
    """One row of a file: what somebody measured.

    Attributes:
        time_ms: None where only bytes were measured.
        hbm_gb: 10⁹ bytes that DRAM moved, by counter; None where only the time was measured.
        fields: every column of the row, as written.
    """

    id: str
    gpu: str
    implementation: str
    direction: str
    time_ms: float | None
    hbm_gb: float | None
    fields: dict[str, str]

    @property
    def problem(self) -> Attention:
        """What ran.

        Raises:
            Unsupported: a problem that cannot be.
        """
        try:
            return Attention(
                batch=int(self.fields["batch"]),
                heads=int(self.fields["heads"]),
                kv_heads=int(self.fields["kv_heads"] or self.fields["heads"]),
                seqlen_q=int(self.fields["seqlen_q"]),
                seqlen_k=int(self.fields["seqlen_k"]),
                head_dim=int(self.fields["head_dim"]),
                dtype=self.fields["dtype"],  # type: ignore[arg-type]
                causal=_truth("causal", self.fields["causal"]),
                direction=DIRECTIONS[self.direction],  # type: ignore[arg-type]
                dropout=float(self.fields["dropout"] or 0),
            )
        except (ProblemError, ValueError, KeyError) as fault:
            raise Unsupported(str(fault)) from fault

    def has_keys(self, least: int) -> bool:
        """Whether the problem has so many keys or more; a cell that is no number has none."""
        text = self.fields["seqlen_k"]
        return least <= (int(text) if text.isdecimal() else 0)

    @property
    def output_is_wrong(self) -> bool:
        """Whether the run that measured this checked the kernel's output and found it wrong."""
        return self.fields.get("output_ok", "").lower() in FALSE

    @property
    def scenario(self) -> Scenario:
        """Launch and L2 state as the row states them; an unknown L2 state is taken as warm.

        Raises:
            Unsupported: a launch or a state that is none.
        """
        l2 = self.fields["l2"]
        if l2 in ("", "unknown"):
            l2 = "warm"
        try:
            return Scenario(launch=self.fields["launch"] or "stream", l2=l2)  # type: ignore[arg-type]
        except ProblemError as fault:
            raise Unsupported(str(fault)) from fault

    @property
    def options(self) -> Options:
        """What else was in the call: a paged cache, a kernel that writes the new keys into it,
        gradients added to earlier ones.

        Raises:
            Unsupported: extras inside the time that no schedule has.
        """
        extras = set(filter(None, self.fields.get("extras", "").split(";")))
        unknown = extras - {"paged", "kv-write", "accumulated-grads"}
        if unknown:
            raise Unsupported(f"the time includes {', '.join(sorted(unknown))}, not modelled yet")
        return Options(
            page_size=PAGE_SIZE if "paged" in extras else None,
            writes_kv=True if "kv-write" in extras else None,
            accumulates_grads="accumulated-grads" in extras or accumulates_grads(self) or None,
        )


def published() -> Path:
    """The published attention times that ship with fasim."""
    files = resources.files("gpu_kernels") / "measurements" / "published" / "attention.csv"
    return Path(str(files))


def _truth(name: str, text: str) -> bool:
    """What a cell says; an empty one says no.

    Raises:
        ValueError: neither.
    """
    if text.lower() not in (*TRUE, *FALSE, ""):
        raise ValueError(f"{name} is {text!r}; write true or false")
    return text.lower() in TRUE
