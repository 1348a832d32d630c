"""Which version of an implementation a measured row ran."""

from __future__ import annotations

from pathlib import Path

import pytest

from fasim.report.validations import validation_text
from fasim.schedules.catalog import IMPLEMENTATIONS
from fasim.verbs.measured.measurement_file import COLUMNS, read
from fasim.verbs.measured.measurements import Measurement, published
from fasim.verbs.measured.versions import VERSIONS, modelled_by
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
