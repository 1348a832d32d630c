"""SASS: instructions, natural loops, the main one among them."""

from __future__ import annotations

import pytest

from gpu_kernels.compile.control_flow import loops_of
from gpu_kernels.compile.main_loop import main_loop
from gpu_kernels.compile.resources import Resources, resources_of
from gpu_kernels.compile.sass import Instruction, function_of, mix
from tests.gpu_kernels.listings import MASKED, RETRIED, SIMPLE, sass


def test_instructions_are_read_with_predicates_and_targets() -> None:
    code = function_of(SIMPLE, "kernel")
    assert [each.address for each in code] == list(range(0, 0xB0, 16))
    leaving = code[7]
    assert (leaving.predicate, leaving.opcode, leaving.target) == ("!P6", "CALL.REL.NOINC", 0x90)
    assert leaving.falls_through
    assert not code[8].falls_through
    assert code[3].is_tensor
    assert not code[2].is_tensor


def test_a_function_is_found_by_its_name() -> None:
    listing = sass("EXIT ;", name="helper") + SIMPLE
    assert len(function_of(listing, "helper")) == 1
    assert len(function_of(listing, "kernel")) == 11
    with pytest.raises(ValueError, match="no function 'other', only helper, kernel"):
        function_of(listing, "other")


@pytest.mark.parametrize(
    ("opcode", "name"),
    [
        ("MUFU.EX2", "MUFU.EX2"),
        ("MUFU.RCP64H", "MUFU.RCP64H"),
        ("HMMA.16816.F32", "HMMA"),
        ("HGMMA.64x64x16.F32", "HGMMA"),
        ("FADD2", "FADD2"),
        ("LDGSTS.E.BYPASS.128", "LDGSTS"),
        ("FADD.FTZ", "FADD"),
    ],
)
def test_opcodes_are_counted_whole(opcode: str, name: str) -> None:
    assert Instruction(0, opcode).name == name


def test_the_loop_is_found_by_its_back_edge() -> None:
    loop = main_loop(function_of(SIMPLE, "kernel"))
    assert loop is not None
    assert loop.header == 0x20
    assert mix(loop.own) == {
        "LDSM": 1,
        "HMMA": 1,
        "MUFU.EX2": 1,
        "FFMA": 1,
        "FMUL": 1,
        "CALL": 1,
        "BRA": 1,
    }


def test_a_branch_to_itself_behind_the_end_is_no_loop() -> None:
    assert [loop.header for loop in loops_of(function_of(SIMPLE, "kernel"))] == [0x20]


def test_a_retry_behind_the_end_does_not_stretch_the_loop() -> None:
    loop = main_loop(function_of(RETRIED, "kernel"))
    assert loop is not None
    assert loop.header == 0x20
    counted = mix(loop.own)
    assert counted["UTCHMMA"] == 2
    assert counted["SYNCS"] == 1  # the retry's own loop is left out
    assert (counted["FADD2"], counted["FMNMX3"]) == (1, 1)


def test_of_alike_loops_the_one_without_a_mask_is_the_main_one() -> None:
    code = function_of(MASKED, "kernel")
    assert [loop.header for loop in loops_of(code)].count(0x10) == 1
    loop = main_loop(code)
    assert loop is not None
    assert loop.header == 0x40
    assert "FSEL" not in mix(loop.own)


def test_without_products_the_longest_innermost_loop_is_the_main_one() -> None:
    code = function_of(
        sass(
            "LDG R2, [R4] ;",
            "@P0 BRA 0x0 ;",
            "LDG R2, [R4] ;",
            "FADD R2, R2, R3 ;",
            "@P0 BRA 0x20 ;",
            "EXIT ;",
        ),
        "kernel",
    )
    loop = main_loop(code)
    assert loop is not None
    assert loop.header == 0x20
    assert main_loop(function_of(sass("EXIT ;"), "kernel")) is None


def test_registers_and_spills() -> None:
    usage = (
        "Resource usage:\n Common:\n  GLOBAL:11 CONSTANT[4]:8\n Function kernel:\n"
        "  REG:255 STACK:48 SHARED:1024 LOCAL:0 CONSTANT[0]:496 TEXTURE:0 SURFACE:0 SAMPLER:0\n"
    )
    assert resources_of(usage, "kernel") == Resources(registers=255, spills=12)
    with pytest.raises(ValueError, match="no resource usage of 'kern'"):
        resources_of(usage, "kern")
