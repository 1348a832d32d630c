"""Detected profiles: every number has its origin, the file loads, and a prediction comes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from fasim.hardware import Profile, ProfileError, load, shipped
from fasim.hardware.fields import schema
from fasim.problem import Attention
from fasim.report.profile_file import KINDS, detected_dict, profile_yaml
from fasim.verbs.machine.gpu_query import GpuQuery, NoGpu, query_gpu
from fasim.verbs.machine.profile_detection import DetectedProfile, detect_profile
from fasim.verbs.measured.device_measurements import COLUMNS
from fasim.verbs.measured.measurements import MeasurementError
from fasim.verbs.predict import predict
from tests.verbs.machine.machines import H200_SMI, H200_TORCH, machine

H200 = query_gpu(machine(H200_SMI, H200_TORCH))
ROWS = (
    "1,h200,DRAM read,fp32,4194304,,,gbps,9000",  # within L2
    "2,h200,DRAM read,fp32,8e9,,,gbps,4500",
    "3,h200,DRAM copy,fp32,8e9,,,gbps,4300",
    "4,h200,L2 read,fp32,20e6,,,gbps,9800",
    "5,h200,L2 read,fp32,60e6,,,gbps,12000",  # more than half of L2
    "6,h200,L2 write,fp32,20e6,,,gbps,4900",
    "7,h200,launch stream,,,,,time_us,2.5",
    "8,h200,launch graph,,,,,time_ms,0.0013",
    "9,h200,GEMM 8192,bf16,8192,8192,8192,tflops,720",
    "10,h200,GEMM,fp16,8192,8192,8192,time_ms,1.6",
    "11,h200,SM clock,,,,,mhz,1965",
    "12,h200,exp2 rate,fp32,,,,gops,4000",
)


def written(detected: DetectedProfile, tmp_path: Path) -> Profile:
    file = tmp_path / "mine.yaml"
    file.write_text(profile_yaml(detected), encoding="utf-8")
    return load(file)


def measured_file(tmp_path: Path, *rows: str) -> Path:
    file = tmp_path / "facts.csv"
    file.write_text("\n".join((",".join(COLUMNS), *rows)) + "\n", encoding="utf-8")
    return file


def test_the_file_loads_and_predicts(tmp_path: Path) -> None:
    profile = written(detect_profile(query=H200), tmp_path)
    assert (profile.gpu.name, profile.extends) == ("h200-detected", ("h200-sxm",))
    assert profile.notes == ()  # no number without a source
    problem = Attention(4, 16, 2048, 2048, 128)
    mine, theirs = (
        predict(problem, p, implementation="flash-attn-3").time_s for p in (profile, load("h200"))
    )
    assert mine == pytest.approx(theirs, rel=0.02)


def test_every_number_has_one_of_three_origins(tmp_path: Path) -> None:
    detected = detect_profile(query=H200)
    profile = written(detected, tmp_path)
    numbers = {path for path, field in schema().fields.items() if field.is_number}
    required = {path for path in numbers if schema().fields[path].required}
    assert required <= set(detected.facts) <= numbers
    for path, fact in detected.facts.items():
        assert fact.source.startswith(fact.mark)
        assert profile.provenance[path].kind == KINDS[fact.mark]
        assert profile.provenance[path].source == fact.source
        value = schema().fields[path].value(profile.gpu)
        assert value == (None if fact.value is None else pytest.approx(fact.value, rel=1e-5))
    assert detected.count("measured") == 0
    assert detected.count("queried") + detected.count("assumed") == len(detected.facts)
    assert detected_dict(detected)["facts"]["sm_count"]["mark"] == "queried"


def test_what_the_tools_say_is_taken() -> None:
    facts = detect_profile(query=H200).facts
    said = {path: fact.value for path, fact in facts.items() if fact.mark == "queried"}
    assert said == {
        "sm_count": 132,
        "clock.boost": 1.98e9,
        "sm.max_warps": 64,
        "sm.registers": 65536,
        "shared_memory.capacity": 228 * 1024,
        "shared_memory.max_per_block": 227 * 1024,
        "l2.capacity": 60 * 2**20,
        "dram.capacity": 150_110_011_392,
        "dram.bandwidth": 3.201e9 * 2 * 6144 / 8,
        "power.limit": 700.0,
    }
    # The data sheet says 4.8 TB/s and the device 4.917: what streams reach is the same.
    assumed = load("h200").gpu
    reached = facts["dram.read_efficiency"].value * said["dram.bandwidth"]
    assert reached == pytest.approx(assumed.dram_read_bytes_per_s)


def test_other_memory_reaches_the_same_share_of_its_pins() -> None:
    slower = GpuQuery(H200.smi, {**H200.torch, "memory_bus_width": 5120})
    facts = detect_profile(query=slower).facts
    parent = load("h200").gpu.dram
    assert facts["dram.read_efficiency"].value == parent.read_efficiency
    assert facts["dram.bandwidth"].value == pytest.approx(3.201e9 * 2 * 5120 / 8)


def test_measured_rows_stand_above_what_was_asked_or_assumed(tmp_path: Path) -> None:
    detected = detect_profile(measured_file(tmp_path, *ROWS), H200)
    facts = {p: f.value for p, f in detected.facts.items() if f.mark == "measured"}
    pins, cycles = 3.201e9 * 2 * 6144 / 8, 132 * 1.965e9
    assert facts == {
        "clock.boost": 1.965e9,
        "clock.sustained_tensor": pytest.approx(720e12 / (132 * 4096)),
        "dram.read_efficiency": pytest.approx(4500e9 / pins),
        "dram.mixed_efficiency": pytest.approx(4300e9 / pins),
        "l2.read_bytes_per_clock_per_sm": pytest.approx(9800e9 / cycles),
        "l2.write_bytes_per_clock_per_sm": pytest.approx(4900e9 / cycles),
        "launch.stream": pytest.approx(2.5e-6),
        "launch.graph": pytest.approx(1.3e-6),
    }
    assert detected.facts["launch.graph"].source == "measured: facts.csv 8, launch graph"
    assert written(detected, tmp_path).provenance["launch.stream"].kind == "measurement"


def test_what_was_measured_moves_what_was_assumed_where_both_cannot_be(tmp_path: Path) -> None:
    rows = (
        "1,h200,DRAM copy,fp32,,,,gbps,4850",  # above the assumed share of reads
        "2,h200,launch stream,,,,,time_us,0.5",  # below the assumed period in a graph
        "3,h200,GEMM,bf16,,,,tflops,1020",  # above the assumed clock of tensor work
    )
    detected = detect_profile(measured_file(tmp_path, *rows), H200)
    facts = detected.facts
    assert facts["dram.read_efficiency"].value == facts["dram.mixed_efficiency"].value
    assert facts["launch.graph"].value == facts["launch.stream"].value == pytest.approx(5e-7)
    assert facts["clock.tensor"].value == pytest.approx(1020e12 / (132 * 4096))
    written(detected, tmp_path)


def test_rows_of_other_gpus_are_refused_and_a_half_line_is_not_used(tmp_path: Path) -> None:
    named = (row.replace(",h200,", f",gpu{index % 2},") for index, row in enumerate(ROWS))
    others = measured_file(tmp_path, *named)
    with pytest.raises(MeasurementError, match="rows of gpu0, gpu1, none of"):
        detect_profile(others, H200)
    half = tmp_path / "half.csv"
    half.write_text(f"{','.join(COLUMNS)}\n{ROWS[6]}\n{ROWS[7][:-2]}", encoding="utf-8")
    facts = detect_profile(half, H200).facts
    assert (facts["launch.stream"].mark, facts["launch.graph"].mark) == ("measured", "assumed")


@pytest.mark.parametrize(
    ("smi", "parent"),
    [
        ("NVIDIA A100-SXM4-80GB, 8.0, 535, 81920, 1410, 1593, 400.00", "a100-sxm4-80gb"),
        ("NVIDIA A100-SXM4-40GB, 8.0, 535, 40960, 1410, 1215, 400.00", "a100-sxm4-40gb"),
        ("NVIDIA A100 80GB PCIe, 8.0, 535, 81920, 1410, 1512, 300.00", "a100-pcie-80gb"),
        ("NVIDIA H100 80GB HBM3, 9.0, 535, 81559, 1980, 2619, 700.00", "h100-sxm5"),
        ("NVIDIA H100 PCIe, 9.0, 535, 81559, 1755, 1593, 350.00", "h100-pcie"),
        (H200_SMI, "h200-sxm"),
        ("NVIDIA B200, 10.0, 570, 183359, 1965, 3996, 1000.00", "b200-sxm"),
        ("NVIDIA L4, 8.9, 550, 23034, 2040, 6251, 72.00", "l4"),
        ("NVIDIA L40S, 8.9, 550, 46068, 2520, 9001, 350.00", "l40s"),
        ("NVIDIA GeForce RTX 3090, 8.6, 550, 24576, 2100, 9751, 350.00", "rtx3090"),
        ("NVIDIA GeForce RTX 4090, 8.9, 550, 24564, 3105, 10501, 450.00", "rtx4090"),
        ("NVIDIA GeForce RTX 4080, 8.9, 550, 16376, 3105, 11201, 320.00", "rtx4090"),
    ],
)
def test_the_most_alike_of_its_architecture_stands_for_the_rest(
    smi: str, parent: str, tmp_path: Path
) -> None:
    detected = detect_profile(query=query_gpu(machine(smi)))
    assert detected.extends == parent
    assert written(detected, tmp_path).gpu.architecture == load(parent).gpu.architecture


@pytest.mark.parametrize("name", [n for n in shipped() if not n.startswith("hypothetical")])
def test_a_file_says_the_numbers_of_any_parent_again(name: str, tmp_path: Path) -> None:
    """Nothing queried but what is the parent's own: the GPU is the parent, name aside."""
    gpu = load(name).gpu
    query = GpuQuery({"name": gpu.title, "compute_cap": gpu.architecture.removeprefix("sm_")})
    again = written(detect_profile(query=query), tmp_path).gpu
    for path, field in schema().fields.items():
        if path not in ("name", "title"):
            assert field.value(again) == field.value(gpu), path


@pytest.mark.parametrize("capability", ["7.5", "12.0"])
def test_an_architecture_without_a_profile_is_refused_in_a_line(capability: str) -> None:
    query = GpuQuery({"name": "NVIDIA T4", "compute_cap": capability})
    with pytest.raises(NoGpu) as refused:
        detect_profile(query=query)
    assert "NVIDIA T4 is sm_" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_this_machine_is_asked_if_nothing_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fasim.verbs.machine.profile_detection.query_gpu", lambda: H200)
    assert detect_profile().title == "NVIDIA H200"
    with pytest.raises(ProfileError):
        load("h200-detected")
