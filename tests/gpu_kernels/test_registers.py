"""What an instruction writes and reads, how many registers each operand has, and its schedule."""

from __future__ import annotations

import pytest

from gpu_kernels.compile.registers import written_and_read
from gpu_kernels.compile.sass import Control, function_of
from tests.gpu_kernels.listings import sass


@pytest.mark.parametrize(
    ("code", "written", "read"),
    [
        ("HMMA.16816.F32 R48, R64.reuse, R184, RZ ;", "R48:4", "R64:4 R184:2"),
        ("HMMA.16816.F32 R48, R52, R186, R48 ;", "R48:4", "R52:4 R186:2 R48:4"),
        ("HGMMA.64x64x16.F32 R88, gdesc[UR8], RZ, !UPT ;", "R88:32", "UR8:4"),
        (
            "HGMMA.64x128x16.F32 R24, R132, gdesc[UR8].tnspB, R24, gsb0 ;",
            "R24:64",
            "R132:4 UR8:4 R24:64",
        ),
        ("LDSM.16.MT88.4 R60, [R23+0x8000] ;", "R60:4", "R23:1"),
        ("LDS.64 R166, [R154+UR7+0x10000] ;", "R166:2", "R154:1 UR7:1"),
        ("@!PT LDS RZ, [RZ] ;", "", ""),
        ("SHFL.BFLY PT, R60, R3, 0x2, 0x1f ;", "R60:1", "R3:1"),
        ("FFMA R187, R48, c[0x0][0x1c0], -R3.reuse ;", "R187:1", "R48:1 R3:1"),
        ("FMNMX R3, R48, R49, !PT ;", "R3:1", "R48:1 R49:1"),
        ("IMAD.WIDE.U32 R2, R235, 0x10, R4 ;", "R2:2", "R235:1 R4:2"),
        ("IADD3 R222, P3, R222, UR15, RZ ;", "R222:1 P3:1", "R222:1 UR15:1"),
        ("IADD3.X R221, R221, UR12, RZ, P3, !PT ;", "R221:1", "R221:1 UR12:1 P3:1"),
        ("UISETP.GE.AND.EX UP0, UPT, UR5, UR14, UPT, UP1 ;", "UP0:1", "UR5:1 UR14:1 UP1:1"),
        ("PLOP3.LUT P0, PT, PT, PT, UP1, 0x80, 0x0 ;", "P0:1", "UP1:1"),
        ("SEL R198, R197, RZ, !P2 ;", "R198:1", "R197:1 P2:1"),
        (
            "@!P0 LDGSTS.E [R21+0x8000], desc[UR16][R90.64], !P1 ;",
            "",
            "P0:1 R21:1 UR16:2 R90:2 P1:1",
        ),
        ("@P0 BRA 0x10 ;", "", "P0:1"),
    ],
)
def test_operands_are_told_apart(code: str, written: str, read: str) -> None:
    (instruction,) = function_of(sass(code), "kernel")
    assert written_and_read(instruction) == (tuple(written.split()), tuple(read.split()))


# As cuobjdump prints them for sm_80: the upper half of an encoding, and what it says.
@pytest.mark.parametrize(
    ("upper", "control"),
    [
        (0x000FE40000000F00, Control(2)),
        (0x000E620000002700, Control(1, sets=1)),
        (0x000EA20000002100, Control(1, sets=2)),
        (0x002FE2000F8E003F, Control(1, awaits=(1,))),
        (0x004FE20000011631, Control(1, awaits=(2,))),
    ],
)
def test_the_compilers_schedule_is_read_from_the_encoding(upper: int, control: Control) -> None:
    assert Control.decoded(upper) == control


def test_a_listing_without_encodings_has_no_schedule() -> None:
    listing = sass("EXIT ;").replace("/* 0x", "// 0x")
    assert function_of(listing, "kernel")[0].control == Control()
    assert function_of(sass("EXIT ;"), "kernel")[0].control == Control(2)
