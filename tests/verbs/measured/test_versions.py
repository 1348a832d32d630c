"""Which version of an implementation a measured row ran."""

from __future__ import annotations

from pathlib import Path

import pytest

from fasim.report.validations import validation_text
from fasim.schedules.catalog import IMPLEMENTATIONS
from fasim.verbs.measured.measurement_file import COLUMNS, read
from fasim.verbs.measured.measurements import Measurement, published
from fasim.verbs.measured.versions import (
    ACCUMULATING,
    VERSIONS,
    accumulates_grads,
    modelled_by,
)
from fasim.verbs.validate import validate

HEADER = ",".join((*COLUMNS, "software"))
ROW = "A,a100-sxm4-80gb,triton,flash2,bwd,fp16,4,16,16,1024,1024,64,false,0,1.0,stream,warm,"


def validated(tmp_path: Path, *software: str) -> list[str]:
    file = tmp_path / "times.csv"
    file.write_text("\n".join((HEADER, *(ROW + each for each in software))) + "\n")
    return validation_text(validate(file)).splitlines()


def test_every_version_is_an_implementation_and_has_rows() -> None:
    rows = read(published()).rows
    for version in VERSIONS:
        assert version.modelled_by in IMPLEMENTATIONS
        ran = [r for r in rows if r.fields["software"] == version.software]
        assert version.implementation in {row.implementation for row in ran}


def test_software_decides_and_the_group_keeps_its_name(tmp_path: Path) -> None:
    lines = validated(tmp_path, "FA v2.0 (Jul 2023)", "triton main")
    old, new = (float(line.split()[-3]) for line in lines[2:4])
    assert old > 1.1 * new  # another backward, and a slower one
    assert "1 rows of triton predicted by triton-2.1: FA v2.0 (Jul 2023)" in lines
    groups = [line for line in lines if " bwd " in line]
    assert len(groups) == 1
    assert groups[0].split()[1] == "triton"


def test_rows_of_the_usual_version_say_nothing(tmp_path: Path) -> None:
    assert not any("predicted by" in line for line in validated(tmp_path, "triton 2.2", ""))


@pytest.mark.parametrize("fields", [{}, {"software": ""}, {"software": "FA v2.0 (Jul 2024)"}])
def test_other_software_is_predicted_by_its_own_name(fields: dict[str, str]) -> None:
    assert modelled_by(Measurement("A", "a100", "triton", "fwd", 1.0, None, fields)) == "triton"
    other = Measurement(
        "A", "a100", "flash-attn-2", "fwd", 1.0, None, {"software": "FA v2.0 (Jul 2023)"}
    )
    assert modelled_by(other) == "flash-attn-2"


def test_rows_whose_script_adds_gradients_up_are_predicted_so(tmp_path: Path) -> None:
    """By their source, or where their extras say so; forward leaves no gradients."""
    adding = [row for row in read(published()).rows if accumulates_grads(row)]
    assert {(row.gpu, row.implementation) for row in adding} == {
        ("a100-sxm4-80gb", "triton"),
        ("rtx4090", "flash-attn-2"),
    }
    assert {row.direction for row in adding} == {"bwd"}
    said = ROW.removesuffix(",warm,").replace("triton", "flash-attn-2")
    file = tmp_path / "times.csv"
    rows = [f"{said},warm,,", f"{said},warm,accumulated-grads,", f"{said},warm,,{ACCUMULATING[0]}"]
    header = ",".join((*COLUMNS, "extras", "source"))
    file.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    validation = validate(file)
    plain, stated, known = (row.predicted_ms for row in validation.rows)
    assert plain < stated == known
    assert "2 rows predicted with gradients added to those of the call before" in validation_text(
        validation
    )
