"""A detected profile as the YAML file that `--gpu FILE` takes, and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, get_args

from fasim import __version__
from fasim.hardware.fields import schema
from fasim.hardware.quantity import Quantity
from fasim.verbs.machine.profile_detection import DetectedFact, DetectedProfile, Mark

KINDS = {"queried": "specification", "measured": "measurement", "assumed": "estimate"}


def profile_yaml(profile: DetectedProfile) -> str:
    """The file: one line a number, `source` beginning with queried, measured or assumed."""
    lines = [
        f"# {profile.title}, as `fasim profiles detect` (fasim {__version__}) found it.",
        f"# {counts_text(profile)}: the word that each source begins with.",
        f"extends: {profile.extends}",
        f"name: {profile.name}",
        f"title: {json.dumps(profile.title)}",
    ]
    open_groups: list[str] = []
    for path, fact in profile.facts.items():
        *groups, name = path.split(".")
        if groups != open_groups:
            common = 0
            while groups[: common + 1] == open_groups[: common + 1] and common < len(groups):
                common += 1
            lines += [""] if common == 0 else []
            lines += [f"{'  ' * depth}{groups[depth]}:" for depth in range(common, len(groups))]
            open_groups = groups
        lines.append(f"{'  ' * len(groups)}{name}: {_line(path, fact)}")
    return "\n".join(lines) + "\n"


def counts_text(profile: DetectedProfile) -> str:
    """How many numbers are of which origin."""
    return ", ".join(f"{profile.count(mark)} {mark}" for mark in get_args(Mark))


def detected_dict(profile: DetectedProfile) -> dict[str, Any]:
    return asdict(profile)


def _line(path: str, fact: DetectedFact) -> str:
    source = json.dumps(fact.source, ensure_ascii=False)
    return f"{{value: {_value(path, fact.value)}, kind: {KINDS[fact.mark]}, source: {source}}}"


def _value(path: str, value: float | None) -> str:
    """A number with its unit, which reads back as the same whole number of bytes."""
    if value is None:
        return "null"
    kind = schema().fields[path].kind
    text = kind.format(value)
    if isinstance(kind, Quantity) and kind.whole and kind.dimension.parse(text) != value:
        return f"{value:.0f} {kind.dimension.base}".strip()
    return text
