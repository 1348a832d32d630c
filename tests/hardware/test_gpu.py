"""The schema: rates against known peaks, and facts that do not fit together."""

import pytest
from pydantic import ValidationError

from fasim.hardware import DERIVED, Gpu, load

# Dense peaks as NVIDIA prints them; GeForce parts at the clock they really hold.
KNOWN_TFLOPS = {
    "a100-sxm4-80gb": (312, 19.5),
    "a100-sxm4-40gb": (312, 19.5),
    "a100-pcie-80gb": (312, 19.5),
    "h100-sxm5": (989.4, 67),
    "h100-pcie": (756, 51),
    "h200-sxm": (989.4, 67),
    "l40s": (362, 91.6),
    "l4": (121, 30.3),
    "b200-sxm": (2250, 74.5),
    "rtx4090": (175.3, 90.1),
    "rtx3090": (76.3, 38.2),
}
# Of one warp instruction on its scheduler: FFMA, integer, MUFU, mma.sync.m16n8k16, ldmatrix.x4.
KNOWN_CYCLES = {
    "a100-sxm4-80gb": (2, 2, 8, 8, 16),
    "h100-sxm5": (1, 2, 8, 6, 16),
    "l40s": (1, 2, 8, 16, 16),
    "rtx4090": (1, 2, 8, 32, 16),
}


@pytest.mark.parametrize(("name", "known"), KNOWN_TFLOPS.items())
def test_peaks_are_the_known_ones(name, known):
    gpu = load(name).gpu
    assert gpu.tensor_flops_per_s("fp16") == pytest.approx(known[0] * 1e12, rel=2e-3)
    assert gpu.fp32_flops_per_s == pytest.approx(known[1] * 1e12, rel=5e-3)


@pytest.mark.parametrize(("name", "known"), KNOWN_CYCLES.items())
def test_cycles_of_a_warp_instruction(name, known):
    gpu = load(name).gpu
    instructions = ("fp32", "alu", "sfu", "mma_sync", "ldmatrix")
    found = [gpu.warp_instruction_cycles(instruction) for instruction in instructions]
    assert found == pytest.approx(known, rel=1e-3)


def test_other_dtypes():
    a100, h100 = load("a100").gpu, load("h100").gpu
    assert h100.tensor_flops_per_s("fp8") == pytest.approx(1979e12, rel=1e-3)
    assert a100.tensor_flops_per_s("tf32") == pytest.approx(156e12, rel=1e-3)
    assert a100.tensor_flops_per_s("fp8") is None
    assert a100.warp_instruction_cycles("mma_sync", "fp8") is None
    with pytest.raises(KeyError):
        a100.tensor_flops_per_s("fp64")


def test_what_follows_from_the_facts():
    gpu = load("a100").gpu
    assert gpu.ridge_flops_per_byte == pytest.approx(153, rel=1e-3)
    assert gpu.l2_read_bytes_per_s == pytest.approx(5.4e12, rel=2e-3)  # as measured
    assert gpu.dram_read_bytes_per_s == pytest.approx(1776e9, rel=2e-3)  # as measured
    assert gpu.shared_memory_total_bytes == 108 * 164 * 1024
    assert gpu.shared_memory_bytes_per_s == pytest.approx(19.5e12, rel=1e-3)
    assert gpu.max_threads_per_sm == 2048
    assert gpu.sfu_ops_per_s == 16 * 108 * 1.41e9


def test_every_derived_quantity_computes_from_its_inputs_alone():
    """Moving an input moves the quantity; `inputs` names no bystander."""
    profile = load("h100")
    for derived in DERIVED:
        for path in derived.inputs:
            moved = _halved(profile, path)
            assert derived.compute(moved) != derived.compute(profile.gpu), (derived.name, path)


def _halved(profile, path):
    from fasim.hardware import with_overrides
    from fasim.hardware.fields import schema

    values = {path: schema().fields[path].value(profile.gpu) / 2}
    if path == "clock.tensor":
        values["clock.sustained_tensor"] = None
    if path == "dram.read_efficiency":
        values["dram.mixed_efficiency"] = 0.1
    if path == "clock.boost":
        values |= {"clock.tensor": 1e8, "clock.sustained_tensor": None}
    if path == "shared_memory.capacity":
        values["shared_memory.max_per_block"] = 1024
    return with_overrides(profile, values).gpu


def test_frozen_hashable_and_by_either_name():
    gpu = load("a100").gpu
    assert hash(gpu) == hash(load("a100").gpu)
    assert Gpu.model_validate(gpu.model_dump()) == gpu
    assert Gpu.model_validate(gpu.model_dump(by_alias=True)) == gpu
    with pytest.raises(ValidationError):
        gpu.sm_count = 4


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sm_count", 0),
        ("sm_count", 1.5),
        ("unknown", 1),
        ("tensor_flops_per_s", 1e15),
        ("dram.mixed_efficiency", 0.99),
        ("dram.read_efficiency", 1.01),
        ("clock.tensor_hz", 9e9),
        ("shared_memory.max_block_bytes", 228 * 1024),
        ("l2.line_bytes", 100),
        ("sm.max_warps", 2),
        ("launch.graph_s", 1e-4),
        ("features", ("cp_async", "wgmma", "fp8")),
        ("features", ("cp_async", "tma", "wgmma")),
        ("dram.capacity_bytes", 1024),
    ],
)
def test_impossible_gpus_are_refused_in_python_too(path, value):
    tree = load("h100").gpu.model_dump()
    *groups, name = path.split(".")
    inner = tree
    for group in groups:
        inner = inner[group]
    inner[name] = value
    with pytest.raises(ValidationError):
        Gpu.model_validate(tree)


def test_the_tight_bounds_are_allowed():
    tree = load("h100").gpu.model_dump()
    tree["dram"]["mixed_efficiency"] = tree["dram"]["read_efficiency"] = 1
    tree["clock"]["sustained_tensor_hz"] = tree["clock"]["tensor_hz"] = tree["clock"]["boost_hz"]
    tree["launch"]["graph_s"] = tree["launch"]["stream_s"] = 0
    Gpu.model_validate(tree)
