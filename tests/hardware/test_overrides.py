"""`--set` and `extends`: what moves, what does not, and what is refused."""

import pytest

from fasim.hardware import ProfileError, load, parse_overrides, with_overrides


def test_twice_the_sms_on_a_faster_memory():
    profile = load("h100", {"sm_count": "264", "dram.bandwidth": "6.7TB/s"})
    assert profile.gpu.sm_count == 264
    assert profile.gpu.dram.bandwidth_bytes_per_s == 6.7e12
    assert profile.label == "h100-sxm5 (sm_count=264, dram.bandwidth=6.7TB/s)"
    changes = profile.changes
    assert [change.name for change in changes.set] == ["sm_count", "dram.bandwidth"]
    moved = {change.name: change for change in changes.moved}
    assert str(moved["tensor_flops.fp16"]) == (
        "tensor_flops.fp16: 989.4 TFLOP/s → 1979 TFLOP/s (× 2)"
    )
    assert moved["l2_read_bandwidth"].ratio == pytest.approx(2)
    assert moved["dram_read_bandwidth"].ratio == pytest.approx(6.7 / 3.352)
    assert "sfu_cycles" not in moved
    unmoved = dict(changes.unmoved)
    assert unmoved["power.limit"] == "700 W"
    assert {"l2.capacity", "clock.boost", "clock.tensor", "launch.stream"} <= set(unmoved)
    assert not {"sm_count", "dram.bandwidth"} & set(unmoved)
    lines = changes.lines()
    assert lines[0] == "set sm_count: 132 → 264 (× 2)"
    assert lines[-1].startswith("unmoved clock.boost 1.98 GHz, ")


def test_bandwidth_alone_moves_only_what_depends_on_it():
    changes = load("a100", {"dram.bandwidth": "4 TB/s"}).changes
    moved = {change.name for change in changes.moved}
    assert moved == {"dram_read_bandwidth", "dram_mixed_bandwidth", "ridge_point"}
    assert dict(changes.unmoved)["tensor_flops.fp16"] == "311.9 TFLOP/s"


def test_below_a_group_below_a_group():
    profile = load("h100", {"tensor_core.flops_per_clock.fp16": 8192})
    assert profile.gpu.tensor_core.flops_per_clock["fp16"] == 8192
    assert {change.name for change in profile.changes.moved} == {
        "tensor_flops.fp16",
        "ridge_point",
        "mma_sync_cycles",
    }


def test_an_override_leaves_the_rest_and_its_sources_alone():
    before = load("h100")
    after = with_overrides(before, {"sm_count": "264"})
    assert before.gpu.sm_count == 132
    assert before.changes is None
    assert after.provenance["sm_count"].source == "--set"
    assert after.provenance["clock.boost"] == before.provenance["clock.boost"]
    again = with_overrides(after, {"sm_count": "132"})
    assert again.gpu == before.gpu
    assert again.changes.set == again.changes.moved == ()
    assert again.changes.lines() == []


def test_other_values():
    gpu = load(
        "h100", {"clock.sustained_tensor": "null", "features": "cp_async, tma, wgmma, fp8"}
    ).gpu
    assert gpu.clock.sustained_tensor_hz is None
    assert load("h100", {"power.time_constant": "2 ms"}).gpu.power.time_constant_s == 2e-3
    assert gpu.features == ("cp_async", "tma", "wgmma", "fp8")
    assert load("h100", {"title": "12"}).gpu.title == "12"
    assert load("h100", {"sm_count": "1e2"}).gpu.sm_count == 100


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("dram.bandwith", "1", "dram.bandwith: unknown field, did you mean dram.bandwidth?"),
        ("bandwidth", "1", "bandwidth: unknown field, did you mean dram.bandwidth?"),
        ("sm_cout", "1", "sm_cout: unknown field, did you mean sm_count?"),
        ("tensor_flops.fp16", "1", "tensor_flops.fp16: is computed, not set; set sm_count,"),
        ("max_threads_per_sm", "1", "max_threads_per_sm: is computed, not set; set sm.max_warps"),
        ("dram", "1", "dram: is a group of fields; set dram.kind"),
        ("sm_count", "0", "sm_count: 0 is out of range; from 1 to 100000 would work"),
        ("dram.bandwidth", "3350", "dram.bandwidth: 3350 is out of range"),
        ("dram.bandwidth", "3 GHz", "dram.bandwidth: '3 GHz' has the unit 'GHz'"),
        ("dram.read_efficiency", "0.5", "dram.mixed_efficiency: above dram.read_efficiency"),
        ("power.time_constant", "10", "power.time_constant: 10 is out of range"),
        ("power.time_constant", "5 W", "power.time_constant: '5 W' has the unit 'W'"),
        ("extends", "a100", "extends: unknown field"),
    ],
)
def test_refused(key, value, line):
    with pytest.raises(ProfileError) as caught:
        load("h100", {key: value})
    [fault] = caught.value.faults
    assert str(fault).startswith(f"--set: {line}")


def test_all_faults_at_once():
    with pytest.raises(ProfileError) as caught:
        load("h100", {"sm_count": "0", "nonsense": "1", "host.pcie": "abc"})
    assert {fault.path for fault in caught.value.faults} == {"sm_count", "nonsense", "host.pcie"}


def test_arguments():
    arguments = ["sm_count=264", "dram.bandwidth = 6.7 TB/s"]
    assert parse_overrides(arguments) == {"sm_count": "264", "dram.bandwidth": "6.7 TB/s"}
    with pytest.raises(ProfileError) as caught:
        parse_overrides(["sm_count", "a=1", "a=2", "=3"])
    assert [fault.path for fault in caught.value.faults] == ["sm_count", "a", "=3"]


def test_a_file_that_extends(tmp_path):
    (tmp_path / "middle.yaml").write_text("extends: H100\nsm_count: 200\n")
    file = tmp_path / "mine.yaml"
    file.write_text("extends: middle.yaml\ndram:\n  bandwidth: 5.0e12\n  kind: HBM4\n")
    profile = load(file)
    assert profile.extends == ("middle", "h100-sxm5")
    assert (profile.gpu.name, profile.gpu.title) == ("mine", "mine")
    assert (profile.gpu.sm_count, profile.gpu.dram.kind) == (200, "HBM4")
    assert profile.gpu.dram.bandwidth_bytes_per_s == 5e12  # YAML 1.2: a number, in base units
    assert profile.gpu.dram.read_efficiency == load("h100").gpu.dram.read_efficiency
    assert profile.provenance["dram.bandwidth"].source == "mine.yaml, line 3"
    assert profile.notes == ("without a source, so assumptions: sm_count, dram.bandwidth",)
    assert [change.name for change in profile.changes.set] == ["dram.kind", "dram.bandwidth"]


def test_a_parent_may_be_a_fragment(tmp_path):
    import fasim.hardware

    whole = fasim.hardware.shipped()["l4"].read_text().replace("sm_count:", "# sm_count:")
    (tmp_path / "fragment.yaml").write_text(whole)
    child = tmp_path / "child.yaml"
    child.write_text("extends: fragment.yaml\nsm_count: 60\n")
    profile = load(child)
    assert profile.gpu.sm_count == 60
    assert profile.changes is None


def test_the_hypothetical_example():
    profile = load("hypothetical-h100-2x")
    assert profile.extends == ("h100-sxm5",)
    moved = {change.name: change.ratio for change in profile.changes.moved}
    assert moved["tensor_flops.fp16"] == pytest.approx(2)
    assert moved["shared_memory_total"] == 2
