"""The JSON Schema of a profile file, for editors: fields, units, and where numbers come from."""

from __future__ import annotations

from typing import Any

from fasim.hardware.fields import Field, schema
from fasim.hardware.layer import CLAIMS
from fasim.hardware.quantity import Choice, Choices, Quantity

_NUMBER = r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"

Json = dict[str, Any]


def json_schema() -> Json:
    """JSON Schema (2020-12) of a profile as YAML.

    A number may stand alone or as `{value, kind, source}`. A file that extends another may
    leave anything out; one that does not must be complete.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fasim hardware profile",
        **_group("", top=True),
        "anyOf": [{"required": ["extends"]}, _complete("")],
        "$defs": {
            "kind": {"enum": list(CLAIMS), "description": "what the number rests on"},
            "source": {"type": "string", "minLength": 1, "description": "where to look it up"},
        },
    }


def _group(path: str, *, top: bool = False) -> Json:
    known = schema()
    properties: Json = {}
    if top:
        about = "a shipped GPU or a file beside this one; what is not written here is taken from it"
        properties["extends"] = {"type": "string", "minLength": 1, "description": about}
    for name in known.groups[path]:
        full = f"{path}.{name}" if path else name
        is_group = full in known.groups
        properties[name] = _group(full) if is_group else _field(known.fields[full])
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _complete(path: str) -> Json:
    """What a file without `extends` must hold; name and title follow from the file's name."""
    known = schema()
    required: list[str] = []
    inner: Json = {}
    for name in known.groups[path]:
        full = f"{path}.{name}" if path else name
        if full in known.groups:
            below = _complete(full)
            if below["required"]:
                required.append(name)
                inner[name] = below
        elif known.fields[full].required and full not in ("name", "title"):
            required.append(name)
    return {"required": required, **({"properties": inner} if inner else {})}


def _field(field: Field) -> Json:
    scalar = _scalar(field)
    sourced = {
        "type": "object",
        "properties": {
            "value": scalar,
            "kind": {"$ref": "#/$defs/kind"},
            "source": {"$ref": "#/$defs/source"},
        },
        "required": ["value", "kind", "source"],
        "additionalProperties": False,
    }
    return {"description": field.description, "anyOf": [scalar, sourced]}


def _scalar(field: Field) -> Json:
    kind = field.kind
    if isinstance(kind, Choice):
        return {"enum": list(kind.choices)}
    if isinstance(kind, Choices):
        return {"type": "array", "items": {"enum": list(kind.choices)}, "uniqueItems": True}
    if not isinstance(kind, Quantity):
        return {"type": "string", "minLength": 1}
    number = "integer" if kind.whole and not kind.dimension.factors else "number"
    forms: list[Json] = [{"type": number, "minimum": kind.low, "maximum": kind.high}]
    if kind.dimension.factors:
        units = "|".join(kind.dimension.factors)
        example = kind.dimension.example
        forms.append(
            {"type": "string", "pattern": f"^{_NUMBER}\\s*({units})$", "examples": [example]}
        )
    if kind.optional:
        forms.append({"type": "null"})
    return forms[0] if len(forms) == 1 else {"anyOf": forms}
