"""One profile file as a layer: what it says of which field, where, and on whose authority."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from fasim.hardware import yaml_reader
from fasim.hardware.faults import Fault, Position, suggestion
from fasim.hardware.fields import schema, unknown
from fasim.hardware.yaml_reader import Node

ProvenanceKind = Literal["specification", "measurement", "estimate", "assumption"]

# What a file may claim. An assumption is what remains: a number without a source, or `--set`.
CLAIMS = tuple(kind for kind in get_args(ProvenanceKind) if kind != "assumption")
_SOURCED = ("value", "kind", "source")


@dataclass(frozen=True)
class Provenance:
    """On whose authority a value stands: `kind` and a source that can be looked up."""

    kind: ProvenanceKind
    source: str


@dataclass(frozen=True)
class Leaf:
    """The value of one field as written, not yet read as a quantity."""

    value: Any
    position: Position
    provenance: Provenance


@dataclass
class Layer:
    """One file, or one set of overrides.

    Attributes:
        leaves: by field path.
        groups: where each group (`dram`) begins.
        extends: the parent as written, and where.
        refused: paths that have a fault already, so that nothing more is said of them.
    """

    path: Path
    leaves: dict[str, Leaf] = field(default_factory=dict)
    groups: dict[str, Position] = field(default_factory=dict)
    extends: tuple[str, Position] | None = None
    refused: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)

    def fault(self, position: Position, path: str, message: str) -> None:
        self.faults.append(Fault(position, path, message))
        self.refused.add(path)


def read_layer(path: Path) -> Layer:
    """Read a file as a layer; faults inside it are collected in the layer.

    Raises:
        ProfileError: nothing of the file can be used (see `yaml_reader.read`).
    """
    document = yaml_reader.read(path)
    layer = Layer(path, faults=list(document.faults))
    layer.refused.update(fault.path for fault in document.faults)
    children = dict(document.root)
    _read_extends(layer, children.pop("extends", None))
    _read_group(layer, "", children)
    return layer


def _read_extends(layer: Layer, node: Node | None) -> None:
    if node is None or node.refused:
        return
    if isinstance(node.value, str) and node.value.strip():
        layer.extends = (node.value, node.position)
        return
    message = "names one GPU or one file, as in `extends: h100-sxm5`; quote a number"
    layer.fault(node.position, "extends", message)


def _read_group(layer: Layer, group: str, children: dict[str, Node]) -> None:
    known = schema()
    for name, node in children.items():
        path = f"{group}.{name}" if group else name
        if path in known.groups:
            layer.groups[path] = node.key
            if isinstance(node.value, dict):
                _read_group(layer, path, node.value)
            elif not node.refused:
                example = known.groups[path][0]
                message = f"is a group; write its fields below it, as in {example}: …"
                layer.fault(node.position, path, message)
        elif path in known.fields:
            _read_leaf(layer, path, node)
        else:
            layer.fault(node.key, path, unknown(path, full=False))


def _read_leaf(layer: Layer, path: str, node: Node) -> None:
    claimed = None
    if isinstance(node.value, dict) and not node.refused:
        found = _read_sourced(layer, path, node, node.value)
        if found is None:
            return
        node, claimed = found
    if _holds_refused(node):
        layer.refused.add(path)
        return
    where = f"{Path(node.position.file).name}, line {node.position.line}"
    provenance = claimed or Provenance("assumption", where)
    layer.leaves[path] = Leaf(_plain(node), node.position, provenance)


def _read_sourced(
    layer: Layer, path: str, node: Node, parts: dict[str, Node]
) -> tuple[Node, Provenance] | None:
    """Read `{value: …, kind: …, source: …}`."""
    faults_before = len(layer.faults)
    if not any(name in _SOURCED or suggestion(name, _SOURCED) for name in parts):
        message = "is one value; write it alone or as {value: …, kind: …, source: …}"
        layer.fault(node.position, path, message)
        return None
    misspelt = set()
    for name, part in parts.items():
        if name not in _SOURCED:
            close = suggestion(name, _SOURCED)
            misspelt.add(close)
            hint = f", did you mean {close}?" if close else f"; take {', '.join(_SOURCED)}"
            layer.fault(part.key, f"{path}.{name}", f"unknown field{hint}")
    for name, example in zip(_SOURCED, ("108", CLAIMS[0], '"data sheet, page 3"'), strict=True):
        if name not in parts and name not in misspelt:
            layer.fault(node.key, f"{path}.{name}", f"missing; write {name}: {example} beside it")
    if "kind" in parts and parts["kind"].value not in CLAIMS:
        part = parts["kind"]
        close = suggestion(str(part.value), CLAIMS)
        hint = f"; did you mean {close}?" if close else ""
        message = f"{part.value!r} is none of {', '.join(CLAIMS)}{hint}"
        layer.fault(part.position, f"{path}.kind", message)
    if "source" in parts:
        source = parts["source"].value
        if not isinstance(source, str) or not source.strip():
            message = "says nothing; name what the number was taken from"
            layer.fault(parts["source"].position, f"{path}.source", message)
    if "value" not in parts:
        layer.refused.add(path)
        return None
    if len(layer.faults) > faults_before:  # the value itself is still checked
        return parts["value"], Provenance("assumption", "")
    kind, source = parts["kind"].value, parts["source"].value
    return parts["value"], Provenance(kind, source)  # type: ignore[arg-type] # checked above


def _holds_refused(node: Node) -> bool:
    inside = node.value if isinstance(node.value, list) else []
    return node.refused or any(_holds_refused(item) for item in inside)


def _plain(node: Node) -> Any:
    if isinstance(node.value, list):
        return [_plain(item) for item in node.value]
    if isinstance(node.value, dict):
        return {name: _plain(item) for name, item in node.value.items()}
    return node.value
