"""Every field of a profile by its path, read off the schema once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel

from fasim.hardware.derived import DERIVED
from fasim.hardware.faults import suggestion
from fasim.hardware.gpu import Gpu
from fasim.hardware.quantity import Kind, Quantity


@dataclass(frozen=True)
class Field:
    """One primary fact.

    Attributes:
        path: as in YAML and on the command line, `dram.bandwidth`.
        attribute: as in Python, `dram.bandwidth_bytes_per_s`.
        kind: how it is read and printed.
        required: whether a complete profile must give it.
    """

    path: str
    attribute: str
    kind: Kind
    description: str
    required: bool

    @property
    def is_number(self) -> bool:
        return isinstance(self.kind, Quantity)

    def value(self, gpu: Gpu) -> Any:
        """This fact of `gpu`, in base units."""
        found: Any = gpu
        for name in self.attribute.split("."):
            found = getattr(found, name)
        return found

    def text(self, gpu: Gpu) -> str:
        """This fact of `gpu`, with its unit."""
        return self.kind.format(self.value(gpu))


@dataclass(frozen=True)
class Schema:
    """All fields by path, and all groups (`dram`) with the local names they hold.

    The top level is the group "".
    """

    fields: dict[str, Field]
    groups: dict[str, tuple[str, ...]]


@cache
def schema() -> Schema:
    """The schema of `Gpu` as paths."""
    result = Schema({}, {})
    _collect(Gpu, "", "", result)
    return result


def _collect(model: type[BaseModel], path: str, attribute: str, into: Schema) -> None:
    names = []
    for own_attribute, info in model.model_fields.items():
        name = info.alias or own_attribute
        names.append(name)
        full = f"{path}.{name}" if path else name
        full_attribute = f"{attribute}.{own_attribute}" if attribute else own_attribute
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            _collect(info.annotation, full, full_attribute, into)
            continue
        kind = next(item for item in info.metadata if isinstance(item, Kind))
        required = info.is_required()
        into.fields[full] = Field(full, full_attribute, kind, info.description or "", required)
    into.groups[path] = tuple(names)


def unknown(path: str, *, full: bool) -> str:
    """The message for a path that is no field: computed, a slip, or simply not there.

    Args:
        full: suggest whole paths (`--set`), not names inside the group (a file).
    """
    known = schema()
    for derived in DERIVED:
        if path in (derived.name, derived.name.partition(".")[0]):
            return f"is computed, not set; set {', '.join(derived.inputs)} instead"
    if path in known.groups:
        some = ", ".join(f"{path}.{name}" for name in known.groups[path])
        return f"is a group of fields; set {some}"
    group, _, name = path.rpartition(".")
    for found in known.fields.values():  # the Python name of a field of this group?
        if found.attribute == path:
            wanted = found.path if full else found.path.rpartition(".")[2]
            return f"unknown field, did you mean {wanted}?"
    close = suggestion(name, known.groups.get(group, ()))
    if close:
        wanted = f"{group}.{close}" if full and group else close
        return f"unknown field, did you mean {wanted}?"
    same = [p for p in known.fields if p.rpartition(".")[2] == name]
    far = same[0] if same else suggestion(path, [*known.fields, *known.groups])
    if far:
        return f"unknown field, did you mean {far}?"
    names = known.groups.get(group) or known.groups[""]
    where = group if group in known.groups and group else "a profile"
    return f"unknown field; {where} takes {', '.join(names)}"
