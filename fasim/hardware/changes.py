"""What an override, or a profile that extends another, moved; and what it left alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fasim.hardware.derived import DERIVED
from fasim.hardware.fields import schema
from fasim.hardware.gpu import Gpu
from fasim.hardware.units import COUNT, CYCLES

# Facts that a person might expect to have moved along, and that never do by themselves.
HEADLINE = (
    "sm_count",
    "clock.boost",
    "clock.tensor",
    "clock.sustained_tensor",
    "shared_memory.capacity",
    "l2.capacity",
    "dram.capacity",
    "dram.bandwidth",
    "launch.stream",
    "power.limit",
)


@dataclass(frozen=True)
class Change:
    """One quantity before and after, in base units and as text."""

    name: str
    before: Any
    after: Any
    before_text: str
    after_text: str

    @property
    def ratio(self) -> float | None:
        """after / before, where both are numbers."""
        if isinstance(self.before, int | float) and isinstance(self.after, int | float):
            return self.after / self.before if self.before else None
        return None

    def __str__(self) -> str:
        factor = f" (× {self.ratio:.4g})" if self.ratio is not None else ""
        return f"{self.name}: {self.before_text} → {self.after_text}{factor}"


@dataclass(frozen=True)
class Changes:
    """The difference of two GPUs.

    Attributes:
        set: primary facts that differ.
        moved: computed quantities that differ in consequence.
        unmoved: headline facts and computed rates that do not differ, each with its value.
    """

    set: tuple[Change, ...]
    moved: tuple[Change, ...]
    unmoved: tuple[tuple[str, str], ...]

    def lines(self) -> list[str]:
        """The report, one quantity a line; what stayed on one line."""
        if not self.set:
            return []
        stayed = ", ".join(f"{name} {text}" for name, text in self.unmoved)
        return [
            *(f"set {change}" for change in self.set),
            *(f"moved {change}" for change in self.moved),
            f"unmoved {stayed}",
        ]


def compare(before: Gpu, after: Gpu) -> Changes:
    """What differs between two GPUs; names and titles aside."""
    facts = [
        Change(path, field.value(before), field.value(after), field.text(before), field.text(after))
        for path, field in schema().fields.items()
        if path not in ("name", "title")
    ]
    computed = []
    for derived in DERIVED:
        old, new = derived.compute(before), derived.compute(after)
        computed.append(Change(derived.name, old, new, derived.format(old), derived.format(new)))
    stayed = [c for c in facts if c.name in HEADLINE and c.before == c.after]
    rates = {derived.name for derived in DERIVED if derived.dimension not in (CYCLES, COUNT)}
    stayed += [c for c in computed if c.name in rates and c.before == c.after]
    return Changes(
        tuple(c for c in facts if c.before != c.after),
        tuple(c for c in computed if c.before != c.after),
        tuple((c.name, c.after_text) for c in stayed),
    )
