"""Loading profiles: files that extend one another, overrides, and every fault in its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fasim.hardware.catalogue import find_gpu, find_parent
from fasim.hardware.changes import Changes, compare
from fasim.hardware.faults import Fault, Position, ProfileError
from fasim.hardware.fields import schema, unknown
from fasim.hardware.gpu import Gpu
from fasim.hardware.layer import Layer, Leaf, Provenance, read_layer
from fasim.hardware.quantity import Quantity, Text
from fasim.hardware.yaml_reader import resolve

_OVERRIDE = Position("--set")
_OWN = ("name", "title")  # a child never takes its parent's


@dataclass(frozen=True)
class Profile:
    """A GPU with the history of its numbers.

    Attributes:
        gpu: the facts.
        path: the file it was read from.
        extends: names of the parents, nearest first.
        notes: what a person should know: what a short name stands for, numbers without source.
        overrides: what was set on top of the file, as written.
        base: what `changes` compares with: the parent, or the GPU before the overrides.
    """

    gpu: Gpu
    path: Path
    extends: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    overrides: Mapping[str, str] = field(default_factory=dict)
    base: Gpu | None = None
    leaves: Mapping[str, Leaf] = field(default_factory=dict, repr=False)

    @property
    def resolved_name(self) -> str:
        """The name in full, `a100-sxm4-80gb` where `a100` was asked for."""
        return self.gpu.name

    @property
    def label(self) -> str:
        """The name with what was overridden: `h100-sxm5 (sm_count=264)`."""
        sets = ", ".join(f"{path}={text}" for path, text in self.overrides.items())
        return f"{self.gpu.name} ({sets})" if sets else self.gpu.name

    @cached_property
    def provenance(self) -> dict[str, Provenance]:
        """Kind and source of every field that was given, by path: `provenance["sm_count"]`."""
        return {path: leaf.provenance for path, leaf in self.leaves.items()}

    @cached_property
    def changes(self) -> Changes | None:
        """What differs from `base` and what does not; None where nothing was changed."""
        return None if self.base is None else compare(self.base, self.gpu)


def load(gpu: str | Path, overrides: Mapping[str, object] | None = None) -> Profile:
    """The profile of a shipped GPU, by name or short name, or of a YAML file.

    Raises:
        ProfileError: unknown name, unusable file, or anything wrong in it; all faults at once.
    """
    path, note = find_gpu(gpu)
    layers = _chain(path, {})
    faults = [fault for layer in layers for fault in layer.faults]
    refused = {name for layer in layers for name in layer.refused}
    leaves = _merge(layers)
    groups = {name: place for layer in layers for name, place in layer.groups.items()}
    root = Position(str(path), 1, 1)
    result, more = _validate(leaves, {"": root, **groups}, refused)
    if result is None or faults:
        raise ProfileError(_in_order([*faults, *more], [str(layer.path) for layer in layers[::-1]]))
    base = None
    if len(layers) > 1:
        # The parent may be a fragment that only its children complete; then there is no base.
        base, _ = _validate(_merge(layers[:-1]), {"": root}, set())
    profile = Profile(
        result,
        path,
        extends=tuple(layer.path.stem for layer in layers[-2::-1]),
        notes=_notes(note, leaves),
        base=base,
        leaves=leaves,
    )
    return with_overrides(profile, overrides) if overrides else profile


def with_overrides(profile: Profile, overrides: Mapping[str, object]) -> Profile:
    """The same GPU with some primary facts set, as `{"dram.bandwidth": "6.7 TB/s"}`.

    What follows from them moves along; nothing else does. `changes` tells both.

    Raises:
        ProfileError: an unknown or computed key, or a value that cannot be; all faults at once.
    """
    faults: list[Fault] = []
    leaves = dict(profile.leaves)
    for key, value in overrides.items():
        found = schema().fields.get(key)
        if found is None:
            faults.append(Fault(_OVERRIDE, key, unknown(key, full=True)))
            continue
        plain = isinstance(value, str) and not isinstance(found.kind, Text)
        given = resolve(value.strip()) if plain and isinstance(value, str) else value
        leaves[key] = Leaf(given, _OVERRIDE, Provenance("assumption", "--set"))
    # The profile was sound, so whatever does not fit now comes from what was set.
    places = {path: replace(leaf, position=_OVERRIDE) for path, leaf in leaves.items()}
    gpu, more = _validate(places, {"": _OVERRIDE}, set())
    faults += more
    if gpu is None or faults:
        raise ProfileError(faults)
    written = {key: str(value) for key, value in overrides.items()}
    return replace(
        profile,
        gpu=gpu,
        leaves=leaves,
        overrides={**profile.overrides, **written},
        base=profile.base or profile.gpu,
    )


def parse_overrides(arguments: Iterable[str]) -> dict[str, str]:
    """`["sm_count=264", …]`, as after `--set`, as a mapping.

    Raises:
        ProfileError: an argument without `=`, or a key given twice.
    """
    result: dict[str, str] = {}
    faults = []
    for argument in arguments:
        key, equals, value = (part.strip() for part in argument.partition("="))
        if not (key and equals and value):
            message = "is not KEY=VALUE; write it as in dram.bandwidth=6.7TB/s"
            faults.append(Fault(_OVERRIDE, argument, message))
        elif key in result:
            faults.append(Fault(_OVERRIDE, key, "set twice; keep one"))
        else:
            result[key] = value
    if faults:
        raise ProfileError(faults)
    return result


def _chain(path: Path, below: dict[Path, str]) -> list[Layer]:
    """The layers of a file, the farthest parent first. `below`: the files that led here."""
    layer = read_layer(path)
    below = {**below, path.resolve(): path.name}
    if layer.extends is None:
        return [layer]
    asked, position = layer.extends
    try:
        parent, _ = find_parent(asked, position, path)
        if parent.resolve() in below:
            circle = " → ".join([*below.values(), parent.name])
            message = f"goes in a circle: {circle}; end it at a complete profile"
            raise ProfileError([Fault(position, "extends", message)])
        return [*_chain(parent, below), layer]
    except ProfileError as error:
        raise ProfileError([*layer.faults, *error.faults]) from None


def _merge(layers: Iterable[Layer]) -> dict[str, Leaf]:
    """Leaf by leaf, later layers win; the name falls back on the file's, the title on the name."""
    leaves: dict[str, Leaf] = {}
    for layer in layers:
        for own in _OWN:
            leaves.pop(own, None)
        leaves.update(layer.leaves)
        place = Position(str(layer.path), 1, 1)
        of_file = Provenance("assumption", "file name")
        leaves.setdefault("name", Leaf(layer.path.stem, place, of_file))
        leaves.setdefault("title", leaves["name"])
    return leaves


def _validate(
    leaves: Mapping[str, Leaf], groups: Mapping[str, Position], refused: set[str]
) -> tuple[Gpu | None, list[Fault]]:
    """The GPU, or every fault that is not a consequence of `refused`."""
    try:
        return Gpu.model_validate(_nested(leaves, groups)), []
    except ValidationError as error:
        problems = error.errors(include_url=False)
    faults = []
    for problem in problems:
        path = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "inconsistent":
            messages = [
                (f"{path}.{own}" if path else own, m) for own, m in problem["ctx"]["faults"]
            ]
        elif problem["type"] == "missing":
            messages = [] if "extends" in refused else [(path, _missing(path))]
        else:
            messages = [(path, str(problem["ctx"]["error"]))]
        for own_path, message in messages:
            if own_path not in refused:
                # What does not fit a parent's fact is mended in the file that was asked for.
                own_file = problem["type"] == "inconsistent"
                place = _place(own_path, leaves, groups, own_file=own_file)
                faults.append(Fault(place, own_path, message))
    return None, faults


def _nested(leaves: Mapping[str, Leaf], groups: Mapping[str, Position]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in [*(group for group in groups if group), *leaves]:
        *parents, name = path.split(".")
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        if path in leaves:
            inner[name] = leaves[path].value
        else:
            inner.setdefault(name, {})
    return tree


def _place(
    path: str, leaves: Mapping[str, Leaf], groups: Mapping[str, Position], *, own_file: bool
) -> Position:
    """Where a field is written, or else the group that lacks it, or else the file's start."""
    root = groups[""]
    places = {**groups, **{name: leaf.position for name, leaf in leaves.items()}}
    while path not in places or (own_file and places[path].file != root.file):
        path = path.rpartition(".")[0]
    return places[path]


def _missing(path: str) -> str:
    known = schema()
    if path in known.groups:
        return f"missing; write it with {', '.join(known.groups[path])}, or extend a GPU"
    found = known.fields[path]
    choices = getattr(found.kind, "choices", None)
    if choices:
        example = " or ".join(choices)
    else:
        example = found.kind.dimension.wanted if isinstance(found.kind, Quantity) else "a text"
    return f"missing ({found.description}); write {example}, or extend a GPU"


def _notes(note: str | None, leaves: Mapping[str, Leaf]) -> tuple[str, ...]:
    notes = [note] if note else []
    numbers = [path for path in leaves if schema().fields[path].is_number]
    bare = [path for path in numbers if leaves[path].provenance.kind == "assumption"]
    if bare:
        notes.append(f"without a source, so assumptions: {', '.join(bare)}")
    return tuple(notes)


def _in_order(faults: list[Fault], files: list[str]) -> list[Fault]:
    """By file (the one asked for first), line and column: as a person would mend them."""

    def place(fault: Fault) -> tuple[int, int, int]:
        position = fault.position or Position("")
        index = files.index(position.file) if position.file in files else len(files)
        return index, position.line, position.column

    return sorted(faults, key=place)
