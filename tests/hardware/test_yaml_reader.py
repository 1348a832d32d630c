"""The reader: YAML 1.2 scalars, places, and one tree whichever parser PyYAML was built with."""

import math

import pytest
import yaml

from fasim.hardware import shipped, yaml_reader


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("108", 108),
        ("3.35e12", 3.35e12),  # PyYAML's own loader reads text
        ("1e3", 1000.0),
        (".5", 0.5),
        ("true", True),
        ("yes", "yes"),  # YAML 1.1's booleans and sexagesimals are text
        ("1:30", "1:30"),
        ("0777", 777),
        ("null", None),
        ("", None),
        ("-.inf", -math.inf),
        ("3.35 TB/s", "3.35 TB/s"),
    ],
)
def test_resolve(text, value):
    found = yaml_reader.resolve(text)
    assert (found, type(found)) == (value, type(value))


def test_places_and_quotes(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text('one: "108"\ntwo:\n  µ: [x, 2]\n')
    root = yaml_reader.read(file).root
    assert root["one"].value == "108"
    inner = root["two"].value["µ"]
    assert (inner.key.line, inner.key.column) == (3, 3)
    assert (inner.position.line, inner.position.column) == (3, 6)
    assert [item.value for item in inner.value] == ["x", 2]


def test_pure_python_parser_reads_the_same(monkeypatch):
    file = shipped()["h100-sxm5"]
    found = yaml_reader.read(file)
    monkeypatch.setattr(yaml_reader, "_LOADER", yaml.SafeLoader)
    assert yaml_reader.read(file) == found
