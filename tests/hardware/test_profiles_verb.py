"""`fasim profiles`: typed results, and a JSON Schema that the shipped files obey."""

import json
import re

import pytest
import yaml

from fasim.hardware import shipped
from fasim.verbs import profiles


def test_list():
    rows = {row.name: row for row in profiles.list_profiles()}
    assert set(rows) == set(shipped())
    assert "a100" in rows["a100-sxm4-80gb"].short_names
    assert rows["l4"].sm_count == 58
    assert rows["hypothetical-h100-2x"].extends == ("h100-sxm5",)


def test_show():
    sheet = profiles.show_profile("a100", {"sm_count": "54"})
    fields = {row.path: row for row in sheet.fields}
    assert fields["dram.bandwidth"].text == "2.039 TB/s"
    assert fields["dram.bandwidth"].kind == "specification"
    assert fields["sm_count"].source == "--set"
    assert fields["clock.sustained_tensor"].kind is None
    assert fields["power.time_constant"].text == "none"
    assert all(row.description for row in sheet.fields)
    derived = {row.name: row for row in sheet.derived}
    assert derived["tensor_flops.fp16"].text == "155.9 TFLOP/s"
    assert derived["tensor_flops.fp8"].text == "none"
    assert sheet.notes == ("a100 stands for a100-sxm4-80gb",)
    assert sheet.changes.set[0].before == 108


def test_the_time_constant_of_the_power_limit_is_shown_as_an_estimate():
    sheet = profiles.show_profile("h100")
    (row,) = (row for row in sheet.fields if row.path == "power.time_constant")
    assert (row.text, row.kind) == ("10 ms", "estimate")
    assert row.source.startswith("not measured here")


def test_check(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("extends: h100-sxm5\nsm_count: 4\n")
    check = profiles.check_profile(file)
    assert check.ok
    assert check.notes == ("without a source, so assumptions: sm_count",)
    file.write_text("extends: h100-sxm5\nsm_count: x\n")
    check = profiles.check_profile(file)
    assert not check.ok
    assert [fault.path for fault in check.faults] == ["sm_count"]


SCHEMA = profiles.schema()


def accepts(rule, value):
    """As much of JSON Schema as the profile schema uses."""
    if "$ref" in rule:
        return accepts(SCHEMA["$defs"][rule["$ref"].rpartition("/")[2]], value)
    types = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "null": type(None),
    }
    if "type" in rule and not isinstance(value, types[rule["type"]]):
        return False
    if "enum" in rule and value not in rule["enum"]:
        return False
    if "anyOf" in rule and not any(accepts(choice, value) for choice in rule["anyOf"]):
        return False
    if isinstance(value, str):
        long_enough = len(value) >= rule.get("minLength", 0)
        return long_enough and re.search(rule.get("pattern", ""), value) is not None
    if isinstance(value, int | float):
        return rule.get("minimum", value) <= value <= rule.get("maximum", value)
    if isinstance(value, list):
        return all(accepts(rule.get("items", {}), item) for item in value)
    if isinstance(value, dict):
        known = rule.get("properties", {})
        if rule.get("additionalProperties") is False and not value.keys() <= known.keys():
            return False
        if not set(rule.get("required", ())) <= value.keys():
            return False
        return all(accepts(known[name], item) for name, item in value.items() if name in known)
    return True


@pytest.mark.parametrize("name", sorted(shipped()))
def test_the_schema_accepts_what_ships(name):
    document = yaml.safe_load(shipped()[name].read_text())
    assert accepts(SCHEMA, document)


@pytest.mark.parametrize(
    "text",
    [
        "sm_count: 4",
        "extends: h100-sxm5\nsm_cuont: 4",
        "extends: h100-sxm5\nsm_count: 0",
        "extends: h100-sxm5\nsm_count: 4.5",
        "extends: h100-sxm5\nsm_count: {value: 4}",
        "extends: h100-sxm5\nsm_count: {value: 4, kind: guess, source: x}",
        "extends: h100-sxm5\ndram: {bandwidth: 3 GHz}",
        "extends: h100-sxm5\narchitecture: sm_91",
        "extends: 4",
    ],
)
def test_the_schema_refuses_what_loading_refuses(text, tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    assert not profiles.check_profile(file).ok
    assert not accepts(SCHEMA, yaml.safe_load(text))


def test_the_schema_is_json():
    assert json.loads(json.dumps(SCHEMA, allow_nan=False)) == SCHEMA
    assert SCHEMA["properties"]["dram"]["properties"]["bandwidth"]["description"] == "of the pins"
