"""Compiled main loops as streams: their items, and the plan that takes them."""

from dataclasses import replace
from math import isclose

import pytest

import fasim
from fasim.hardware import load
from fasim.problem import Attention, ProblemError
from fasim.schedules.catalog import plan
from fasim.schedules.compiled_loop import CompiledLoop, Instruction, stored_loop
from fasim.schedules.implementations.gpu_kernels import (
    COMPILED_ARCHITECTURES,
    COMPILED_HEAD_DIMS,
    COMPILED_KERNELS,
)
from fasim.schedules.plan import Options, Refused
from fasim.simulator.compiled_stream import compiled_stream

A100, H100 = load("a100").gpu, load("h100").gpu
COMPILED = Options(stream="compiled")
STORED = [
    (kernel, head_dim, arch)
    for kernel in COMPILED_KERNELS
    for head_dim in COMPILED_HEAD_DIMS
    for arch in COMPILED_ARCHITECTURES
]


def loop_of(*code, warps=4):
    return CompiledLoop("made_up", "sm_80", "none", 64, (64, 64), warps, 3, "fp16", code)


def registers(first, count):
    return tuple(f"R{n}" for n in range(first, first + count))


def test_instructions_become_the_items_worked_out_by_hand():
    product = Instruction(
        "HMMA.16816.F32", written=registers(0, 4), read=(*registers(8, 4), *registers(12, 2))
    )
    code = (
        Instruction("BAR.SYNC.DEFER_BLOCKING"),
        Instruction("LDSM.16.M88.4", written=registers(8, 4), read=("R40",), sets=1),
        Instruction("LDSM.16.M88.2", written=registers(12, 2), read=("R40",), sets=1),
        replace(product, awaits=(1,)),
        Instruction("FMUL", written=("R50",), read=("R0",)),
        Instruction("FFMA", written=("R51",), read=("R1",)),
        Instruction("FMUL", written=("R50",), read=("R50",)),
        Instruction("MUFU.EX2", written=("R52",), read=("R50",)),
        Instruction("LDS", guard="!PT"),
        Instruction("LDGSTS.E.BYPASS.128", read=("R60",)),
        Instruction("LDGDEPBAR", sets=0),
    )
    items = compiled_stream(loop_of(*code), A100, 4 * 512).items
    said = [(item.pipe, item.count, item.cycles, item.needs) for item in items]
    assert said == [
        ("barrier", 1, 0, ()),
        ("shared_memory", 1, 16, ()),
        ("shared_memory", 1, 8, ()),
        ("tensor", 1, 8, ((1, 0), (2, 0))),
        ("shared_memory", 1, 16, ()),  # what the copy brings is written
        ("fp32", 2, 4, ((3, 0),)),
        ("fp32", 1, 2, ((5, 0),)),
        ("sfu", 1, 8, ((6, 0),)),
        ("alu", 1, 0, ()),
        ("copy", 1, round(512 / (35.5 / 4)), ()),
        ("alu", 1, 0, ()),
    ]
    assert [item.asynchronous for item in items].index(True) == 4


@pytest.mark.parametrize("opcode", ["ATOM.ADD", "STS.64", "UTCHMMA"])
def test_an_unknown_instruction_is_an_error(opcode):
    with pytest.raises(ValueError, match=f"made_up on sm_80: unknown {opcode}"):
        compiled_stream(loop_of(Instruction(opcode)), A100, 0)


@pytest.mark.parametrize(("kernel", "head_dim", "arch"), STORED)
def test_a_kept_loop_multiplies_and_copies_what_its_program_does(kernel, head_dim, arch):
    gpu = load({"sm_80": "a100", "sm_89": "rtx4090", "sm_90": "h100"}[arch]).gpu
    loop = stored_loop(kernel, head_dim, arch)
    rows, keys = loop.tile
    products = {"flash2_forward": 2, "key_value_pass": 4, "query_pass": 3}[kernel]
    loaded_bytes = 2 * head_dim * 2 * (rows if kernel == "key_value_pass" else keys)
    if kernel == "key_value_pass":
        loaded_bytes += 2 * 4 * rows
    stream = compiled_stream(loop, gpu, loaded_bytes)
    flops = 2 * products * rows * keys * head_dim
    rate = gpu.tensor_core.flops_per_clock["fp16"]
    if arch != "sm_90":
        rate *= gpu.tensor_core.mma_sync_fraction
    tensor = sum(item.cycles for item in stream.items if item.pipe == "tensor")
    # A wgmma with few columns reads A from shared memory for longer than it multiplies.
    assert tensor * stream.warps_per_scheduler >= flops / rate * (1 - 1e-9)
    assert arch == "sm_90" or isclose(tensor * stream.warps_per_scheduler, flops / rate)
    copied = sum(item.cycles for item in stream.items if item.pipe == "copy")
    port = loaded_bytes / gpu.l2.read_bytes_per_clock_per_sm
    assert copied * stream.warps_per_scheduler == pytest.approx(port, rel=0.05)
    assert 100 < len(stream.items) < 600


def planned(gpu="a100", head_dim=64, options=COMPILED, implementation="gpu-kernels", **more):
    problem = Attention(1, 1, 4096, 4096, head_dim, **more)
    return plan(problem, load(gpu).gpu, None, implementation, options)


def test_a_plan_takes_the_loops_of_all_kernels_that_multiply():
    chain = planned(direction="both", causal=True)
    assert [loop.kernel for loop in chain.compiled] == list(COMPILED_KERNELS)
    assert chain.stream == "compiled"
    assert [chain.compiled_loop(kernel) is None for kernel in chain.kernels].count(True) == 1
    assert any("compiled by triton" in line for line in chain.assumptions)
    assert any("mask" in line for line in chain.assumptions)
    assert planned(options=Options(stream="lowered")).stream == "lowered"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gpu": "rtx3090"}, "architecture is sm_86; compiled streams are kept for sm_80, sm_89"),
        ({"dtype": "bf16"}, "dtype is bf16; compiled streams are kept for fp16"),
        ({"head_dim": 32}, "head_dim is 32; compiled streams are kept for 64 and 128"),
        (
            {"options": Options(tile=(64, 64), stream="compiled")},
            "tile of flash2_forward is 64x64; its stream was compiled for 128x64",
        ),
        ({"implementation": "flash-attn-2"}, "it takes no --stream"),
    ],
)
def test_what_was_not_compiled_is_refused_in_a_line(changes, reason):
    with pytest.raises(Refused, match=reason) as refusal:
        planned(**changes)
    assert "\n" not in str(refusal.value)


def test_a_stream_of_another_name_is_refused():
    with pytest.raises(ProblemError, match="stream is 'guessed'; choose from lowered, compiled"):
        Options(stream="guessed")


def test_a_prediction_rests_on_the_compiled_stream_and_says_so():
    problem = Attention(2, 16, 4096, 4096, 128)
    lowered, compiled = (
        fasim.predict(problem, load("h100"), implementation="gpu-kernels", options=options)
        for options in (None, COMPILED)
    )
    assert lowered.to_dict(sensitivity=False)["stream"] == "lowered"
    said = compiled.to_dict(sensitivity=False)
    assert said["stream"] == "compiled"
    assert any("streams compiled by triton" in line for line in said["assumptions"])
    assert compiled.time_s != lowered.time_s
    assert compiled.time_s == pytest.approx(lowered.time_s, rel=0.1)
    kernels = compiled.simulation.kernels
    assert len(kernels[0].lowered.stream.plain[0].items) > 200
    assert compiled.traffic == lowered.traffic


def test_the_mask_costs_what_it_costs_lowered():
    """In iterations, of which masked ones count more: as many as without the compiled stream."""
    problem = Attention(2, 16, 512, 512, 64, causal=True)
    trips = [
        [kind.trips for kind in prediction.simulation.kernels[0].lowered.work.classes]
        for prediction in (
            fasim.predict(problem, load("a100"), implementation="gpu-kernels", options=options)
            for options in (None, COMPILED)
        )
    ]
    assert trips[0] == trips[1]
    assert len(set(trips[0])) == 4  # row tiles
