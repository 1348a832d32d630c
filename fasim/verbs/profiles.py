"""`fasim profiles`: list the GPUs, show one, check a file, print the schema for editors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasim.hardware import SHORT_NAMES, Changes, Fault, Profile, ProfileError, load, shipped
from fasim.hardware.derived import DERIVED
from fasim.hardware.fields import schema as field_schema
from fasim.hardware.json_schema import json_schema


@dataclass(frozen=True)
class ProfileRow:
    """One shipped GPU in a line. Rates are peaks of the device in base units."""

    name: str
    title: str
    architecture: str
    short_names: tuple[str, ...]
    sm_count: int
    fp16_tensor_flops_per_s: float | None
    dram_bandwidth_bytes_per_s: float
    dram_capacity_bytes: int
    extends: tuple[str, ...]


@dataclass(frozen=True)
class FieldRow:
    """One primary fact. `value` is in base units; `text` has a unit; kind and source: its origin.

    `kind` and `source` are None for a field that was left out and may be.
    """

    path: str
    value: Any
    text: str
    kind: str | None
    source: str | None
    description: str


@dataclass(frozen=True)
class DerivedRow:
    """One computed quantity, and the facts it follows from."""

    name: str
    value: float | None
    text: str
    inputs: tuple[str, ...]
    description: str


@dataclass(frozen=True)
class ProfileSheet:
    """Everything about one GPU. `changes`: against its parent or before `--set`, if either."""

    name: str
    title: str
    file: str
    extends: tuple[str, ...]
    notes: tuple[str, ...]
    fields: tuple[FieldRow, ...]
    derived: tuple[DerivedRow, ...]
    changes: Changes | None


@dataclass(frozen=True)
class ProfileCheck:
    """Whether a file can be used; `faults` is empty if so. `notes`: what is allowed, yet unwise."""

    file: str
    faults: tuple[Fault, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.faults


def list_profiles() -> tuple[ProfileRow, ...]:
    """Every shipped GPU, by name."""
    return tuple(_row(load(name)) for name in shipped())


def show_profile(gpu: str | Path, overrides: Mapping[str, object] | None = None) -> ProfileSheet:
    """One GPU with the source of every number, what follows from them, and what was changed.

    Raises:
        ProfileError: the GPU is unknown, or the file or an override is at fault.
    """
    profile = load(gpu, overrides)
    facts = []
    for path, field in field_schema().fields.items():
        origin = profile.provenance.get(path)
        facts.append(
            FieldRow(
                path,
                field.value(profile.gpu),
                field.text(profile.gpu),
                origin.kind if origin else None,
                origin.source if origin else None,
                field.description,
            )
        )
    computed = []
    for derived in DERIVED:
        value = derived.compute(profile.gpu)
        text = derived.format(value)
        computed.append(DerivedRow(derived.name, value, text, derived.inputs, derived.description))
    return ProfileSheet(
        profile.gpu.name,
        profile.gpu.title,
        str(profile.path),
        profile.extends,
        profile.notes,
        tuple(facts),
        tuple(computed),
        profile.changes,
    )


def check_profile(file: str | Path) -> ProfileCheck:
    """Every fault of a profile file; a result, never an error."""
    path = Path(file)
    try:
        profile = load(path)
    except ProfileError as error:
        return ProfileCheck(str(file), error.faults)
    return ProfileCheck(str(file), (), profile.notes)


def schema() -> dict[str, Any]:
    """The JSON Schema of a profile file, for editors."""
    return json_schema()


def _row(profile: Profile) -> ProfileRow:
    gpu = profile.gpu
    return ProfileRow(
        gpu.name,
        gpu.title,
        gpu.architecture,
        tuple(short for short, full in SHORT_NAMES.items() if full == gpu.name),
        gpu.sm_count,
        gpu.tensor_flops_per_s("fp16"),
        gpu.dram.bandwidth_bytes_per_s,
        gpu.dram.capacity_bytes,
        profile.extends,
    )
