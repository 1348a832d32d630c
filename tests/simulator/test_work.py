import pytest

from fasim.simulator.work import (
    BlockClass,
    KernelWork,
    LoopRate,
    WorkError,
    add_along,
    split_evenly,
)


def kernel(**changes):
    fields = {
        "name": "k",
        "classes": (BlockClass("block", prologue=(("fp32", 10),)),),
        "pattern": (0,),
        "repeats": 9,
        "sm_count": 2,
        "blocks_per_sm": 2,
        "dram_bandwidth_bytes_per_s": 3 * 10**12,
    }
    return KernelWork(**{**fields, **changes})


def test_waves_count_blocks_over_slots():
    work = kernel()
    assert (work.blocks, work.slots, work.waves) == (9, 4, 2.25)


def test_transfers_are_rounded_up_to_the_tick():
    work = kernel()
    assert [work.dram_ticks(n) for n in (0, 1, 3, 4)] == [0, 1, 1, 2]


def test_walking_along_charges_is_cyclic_and_loses_nothing():
    totals = {}
    add_along(totals, (("tensor", 3), ("sfu", 2), ("tensor", 1)), 2 * 6 + 4)
    assert totals == {"tensor": 2 * 4 + 3, "sfu": 2 * 2 + 1}


@pytest.mark.parametrize(("total", "parts"), [(0, 1), (7, 3), (2, 4), (1000, 7)])
def test_even_splits_sum_to_the_whole(total, parts):
    split = split_evenly(total, parts)
    assert (len(split), sum(split)) == (parts, total)
    assert max(split) - min(split) <= 1


@pytest.mark.parametrize(
    ("periods", "charges", "message"),
    [
        ((10,), ((("tensor", 9),),), r"charges of T\(1\) sum to 9, not to 10"),
        ((10, 0), ((("tensor", 10),), ()), r"T\(2\) is 0"),
        ((10, 20), ((("tensor", 10),),), "2 periods and 1 lists"),
        ((10,), ((("tensor", 11), ("sfu", -1)),), "'sfu' with -1 ticks"),
    ],
)
def test_a_loop_rate_refuses_charges_that_do_not_add_up(periods, charges, message):
    with pytest.raises(WorkError, match=message):
        LoopRate(periods, charges)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trips": 1024}, "1024 trips and no loop rate"),
        ({"loop_dram_bytes": 64}, "64 bytes in a loop of no trips"),
        ({"epilogue_dram_bytes": -1}, "epilogue_dram_bytes of class 'b' is -1"),
        ({"prologue": (("l2", -5),)}, "'l2' with -5 ticks"),
    ],
)
def test_a_block_class_refuses_what_cannot_be(fields, message):
    with pytest.raises(WorkError, match=message):
        BlockClass("b", **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"repeats": 0}, "repeats of 'k' is 0"),
        ({"pattern": ()}, "pattern is empty"),
        ({"pattern": (0, 1)}, "names classes 0 to 1; there are 1"),
        ({"launch_ticks": -1}, "launch_ticks of 'k' is -1"),
        (
            {"classes": (BlockClass("b", loop=LoopRate((5,), ((("alu", 5),),)), trips=1),)},
            "up to 1 computing blocks; 'k' has 2",
        ),
    ],
)
def test_a_kernel_refuses_what_cannot_be(fields, message):
    with pytest.raises(WorkError, match=message):
        kernel(**fields)
