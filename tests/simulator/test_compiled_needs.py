"""What instructions of compiled loops wait for."""

from fasim.schedules.compiled_loop import Instruction
from fasim.simulator.compiled_needs import needs_of


def alu(written="", read="", **more):
    return Instruction("IADD3", written=tuple(written.split()), read=tuple(read.split()), **more)


def test_a_register_is_waited_for_where_it_was_written_last():
    code = [alu("R1"), alu("R1", "R1"), alu("R2", "R1"), alu("R3", "R7")]
    assert needs_of(code) == [(), ((0, 0),), ((1, 0),), ()]


def test_what_is_written_later_comes_from_the_iteration_before():
    code = [alu("R2", "R1 R2"), alu("R1", "R2")]
    assert needs_of(code) == [((1, 1), (0, 1)), ((0, 0),)]


def test_an_instruction_that_never_runs_makes_and_takes_nothing():
    code = [alu("R1"), alu("R1", "R9", guard="!PT"), alu("R2", "R1")]
    assert needs_of(code)[2] == ((0, 0),)


def test_a_scoreboard_stands_for_all_that_has_set_it_since_it_was_awaited():
    code = [
        alu("R1", sets=2),
        alu("R2", sets=2),
        alu("R3", sets=4),
        alu(awaits=(2,)),
        alu(awaits=(2,)),
    ]
    assert needs_of(code)[3:] == [((0, 0), (1, 0)), ()]


def test_a_scoreboard_is_still_set_from_the_iteration_before():
    code = [alu(awaits=(0,)), alu("R1", sets=0)]
    assert needs_of(code)[0] == ((1, 1),)


def copies(pending):
    return [
        Instruction("DEPBAR.LE", groups=f"SB0, {pending:#x}"),
        Instruction("LDGSTS.E.BYPASS.128"),
        Instruction("LDGSTS.E.BYPASS.128"),
        Instruction("LDGDEPBAR", sets=0),
        Instruction("LDGSTS.E.BYPASS.128"),
        Instruction("LDGDEPBAR", sets=0),
    ]


def test_a_wait_leaves_as_many_groups_of_copies_as_it_says():
    assert needs_of(copies(0))[0] == ((4, 1),)
    assert needs_of(copies(1))[0] == ((1, 1), (2, 1))
    assert needs_of(copies(2))[0] == ((4, 2),)
    assert needs_of(copies(3))[0] == ((1, 2), (2, 2))


def product(groups=""):
    return Instruction("HGMMA.64x64x16.F32", written=("R8",), read=("UR4", "R8"), groups=groups)


def test_wgmmas_wait_for_their_queue_and_not_for_their_accumulators():
    code = [product(), product(), product("gsb0"), product("gsb0")]
    assert needs_of(code) == [((2, 1),), ((3, 1),), ((0, 0),), ((1, 0),)]


def test_a_wait_leaves_as_many_groups_of_wgmmas_as_it_says():
    for pending, needed in ((0, 1), (1, 0)):
        wait = Instruction("WARPGROUP.DEPBAR.LE", groups=f"gsb0, {pending:#x}")
        assert needs_of([product("gsb0"), product("gsb0"), wait])[2] == ((needed, 0),)
