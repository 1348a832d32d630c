"""A strict YAML reader that remembers where everything was written.

It builds a plain tree straight from the parser's events: no object is ever constructed, so
there is nothing for a tag to construct, and an alias bomb is refused at its first alias.
Differences from PyYAML's own loaders, all deliberate: numbers are YAML 1.2 (`3.35e12` is a
number, `yes` is text), a key given twice is a fault, tags, anchors and aliases are refused.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import yaml

from fasim.hardware.faults import Fault, Position, ProfileError

MAX_FILE_BYTES = 1024 * 1024  # a profile is some 10 KB
MAX_DEPTH = 16  # a profile needs 4

WHOLE_FILE = "profile"  # the path in faults that concern the file and no field of it

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's parser is 10 × faster
_INTEGER = re.compile(r"[-+]?[0-9]{1,30}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,30}|[0-9]{1,30}(\.[0-9]{0,30})?)([eE][-+]?[0-9]{1,3})?")
_NON_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NULL = ("", "~", "null", "Null", "NULL")
_BOOLEAN = {"true": True, "True": True, "TRUE": True} | {
    "false": False,
    "False": False,
    "FALSE": False,
}

Scalar: TypeAlias = str | int | float | bool | None


@dataclass
class Node:
    """One value and where it stands. `key` is the place of its key, for faults about the key."""

    value: Scalar | list[Node] | dict[str, Node]
    position: Position
    key: Position
    refused: bool = False  # a fault was reported here already; the value means nothing


@dataclass
class Document:
    """A file's tree (always a mapping) and the faults met while reading it."""

    root: dict[str, Node]
    faults: list[Fault] = field(default_factory=list)


def read(path: Path) -> Document:
    """Read one file as a mapping.

    Raises:
        ProfileError: nothing of the file can be used: missing, a directory, too large, binary,
            not UTF-8, empty, not YAML, not a mapping, nested too deep, or with aliases.
    """
    text = _text(path)
    reader = _Reader(str(path))
    try:
        root = reader.document(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        message = f"not YAML: {error.problem or error.context}"
        hint = "check brackets, quotes and indentation (spaces, no tabs)"
        raise _fatal(path, f"{message}; {hint}", line, column) from None
    except yaml.YAMLError:
        raise _fatal(path, "holds control characters; give a YAML text file") from None
    return Document(root, reader.faults)


def resolve(text: str) -> Scalar:
    """The value of a plain (unquoted) scalar by YAML 1.2's core schema."""
    if text in _NULL:
        return None
    if text in _BOOLEAN:
        return _BOOLEAN[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NON_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def _fatal(path: Path, message: str, line: int = 1, column: int = 1) -> ProfileError:
    return ProfileError([Fault(Position(str(path), line, column), WHOLE_FILE, message)])


def _text(path: Path) -> str:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise _fatal(path, "is a directory; give a YAML file")
        if not stat.S_ISREG(status.st_mode):
            raise _fatal(path, "is not a regular file; give a YAML file")
        if status.st_size > MAX_FILE_BYTES:
            raise _fatal(
                path,
                f"holds {status.st_size:,} bytes; a profile is at most {MAX_FILE_BYTES:,} bytes",
            )
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, ProfileError):
            raise
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise _fatal(path, f"cannot be read: {reason}; give a YAML file") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _fatal(path, "is binary or not UTF-8; give a YAML text file") from None
    if "\0" in text:
        raise _fatal(path, "is binary; give a YAML text file")
    return text


class _Reader:
    """Turns the events of one file into nodes, collecting faults."""

    def __init__(self, file: str) -> None:
        self._file = file
        self.faults: list[Fault] = []

    def document(self, events: Iterator[yaml.Event]) -> dict[str, Node]:
        self._events = events
        next(events)  # the start of the stream
        event = next(events)
        if isinstance(event, yaml.StreamEndEvent):
            raise self._stop("is empty; list what the GPU has, or start with `extends: h100-sxm5`")
        root = self._node(next(events), "", None, 0)
        next(events)  # the end of the document
        event = next(events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise self._stop("a second document begins; keep one GPU a file", event)
        if not isinstance(root.value, dict):
            what = "a list" if isinstance(root.value, list) else "a single value"
            if root.value is None:
                what = "empty"
            raise self._stop(f"is {what}; a profile is a mapping, as in `sm_count: 108`")
        return root.value

    def _position(self, event: yaml.Event) -> Position:
        mark = event.start_mark
        assert mark is not None  # every event of a parsed file has one
        return Position(self._file, mark.line + 1, mark.column + 1)

    def _stop(self, message: str, event: yaml.Event | None = None) -> ProfileError:
        """The error for what makes the rest of the file unreadable; earlier faults go with it."""
        position = self._position(event) if event else Position(self._file, 1, 1)
        return ProfileError([*self.faults, Fault(position, WHOLE_FILE, message)])

    def _node(self, event: yaml.Event, path: str, key: Position | None, depth: int) -> Node:
        position = self._position(event)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise self._stop("anchors and aliases are not read; write the value out", event)
        if depth > MAX_DEPTH:
            raise self._stop(f"nested more than {MAX_DEPTH} deep; a profile needs 4", event)
        node = Node(None, position, key or position)
        if isinstance(event, yaml.MappingStartEvent):
            node.value = self._mapping(path, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            node.value = self._sequence(path, depth)
        elif isinstance(event, yaml.ScalarEvent):
            # implicit[0]: the scalar is plain, so its type follows from its looks.
            node.value = resolve(event.value) if event.implicit[0] else event.value
        if tag := getattr(event, "tag", None):
            message = f"the tag {tag} is not read; write a plain value"
            self.faults.append(Fault(position, path or WHOLE_FILE, message))
            node.refused = True
        return node

    def _sequence(self, path: str, depth: int) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, path, None, depth + 1))
        return items

    def _mapping(self, path: str, depth: int) -> dict[str, Node]:
        children: dict[str, Node] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._stop("a key must be a plain name, as in `sm_count: 108`", event)
            name, position = event.value, self._position(event)
            key = self._node(event, path, None, depth)  # refuses tags and anchors on keys
            child_path = f"{path}.{name}" if path else name
            child = self._node(next(self._events), child_path, key.position, depth + 1)
            if name not in children:
                children[name] = child
                continue
            first = children[name].key
            message = f"given twice, first on line {first.line}; keep one"
            self.faults.append(Fault(position, child_path, message))
        return children
