"""The SM engine against traces worked out by hand, its rules one at a time, and bounds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasim.simulator.sm_engine import Rate, TraceEvent, steady_rate, trace
from fasim.simulator.stream import PIPES, Barrier, Item, Stream

CAUSES = {*PIPES, "issue", "l2", "dram"}


def block(*items: Item, warps: int = 1) -> tuple[Stream, ...]:
    return (Stream(items, warps),)


def rate(block: tuple[Stream, ...], residents: int = 1, **changes: Any) -> Rate:
    return steady_rate(block, residents, **{"barrier_cycles": 30, "jitter_cycles": 0, **changes})


def events(block: tuple[Stream, ...], residents: int = 1, **changes: Any) -> list[TraceEvent]:
    return trace(block, residents, **{"barrier_cycles": 30, "jitter_cycles": 0, **changes})


# Two traces worked out by hand


def test_one_warp_with_dependent_items() -> None:
    """A warp waits for each result, and issues past what it need not wait for.

        scale  issues at 0, 2, 4, 6; in service [0, 8); visible at 8 + 4 = 12
        exp    needs scale: issues at 12; in service [12, 20); visible at 20 + 20 = 40
        index  needs nothing: issues in the next cycle, 13; in service [13, 15)
        sum    needs exp: issues at 40; in service [40, 42); visible at 46
        scale  of the next iteration needs sum: issues at 46

    The period is 46: fp32 has [0, 12) and [40, 46), work and the waits for its results; sfu has
    [12, 40); alu works in [13, 15) beside sfu, which ranks higher.
    """
    stream = block(
        Item("fp32", 4, 8, latency=4, needs=((3, 1),), name="scale"),
        Item("sfu", 1, 8, latency=20, needs=((0, 0),), name="exp"),
        Item("alu", 1, 2, latency=4, name="index"),
        Item("fp32", 1, 2, latency=4, needs=((1, 0),), name="sum"),
    )
    seen = [(e.item, e.issued, e.start, e.end, e.waited, e.cause) for e in events(stream)[:5]]
    assert seen == [
        ("scale", 0, 0, 8, 0, ""),
        ("exp", 12, 12, 20, 5, "fp32"),  # ready at 7, the cycle after its last issue
        ("index", 13, 13, 15, 0, ""),
        ("sum", 40, 40, 42, 26, "sfu"),
        ("scale", 46, 46, 54, 5, "fp32"),
    ]
    result = rate(stream)
    assert result.cycles == 46
    assert result.charges == {"fp32": 18, "sfu": 28}
    assert result.utilisation["alu"] == 2 / 46


def test_two_warps_overlap_tensor_and_sfu() -> None:
    """Two blocks take turns: one's exp hides behind the other's mma.

        block 0  mma at 0, 8, 16, 24; in service [0, 32)
        block 0  exp at 32, when both blocks could issue: the greedy one goes on; [32, 48)
        block 1  mma at 33, for the tensor pipe is free and the slot of 32 is taken; [33, 65)
        block 1  exp at 65, greedy again; [65, 81)
        block 0  mma at 66; its exp was visible at 48, the tensor pipe free at 65; [66, 98)

    The period is 66: two mma of 32, and a slot lost to each exp. A block has 32 cycles in
    tensor, 16 in sfu, waits 17 for the tensor pipe and 1 for the slot. Alone it takes 48.
    """
    stream = block(
        Item("tensor", 4, 32, needs=((1, 1),), name="mma"),
        Item("sfu", 2, 16, needs=((0, 0),), name="exp"),
    )
    seen = [(e.block, e.item, e.issued, e.end, e.cause) for e in events(stream, 2)[:6]]
    assert seen == [
        (0, "mma", 0, 32, ""),
        (0, "exp", 32, 48, "tensor"),
        (1, "mma", 33, 65, "issue"),
        (1, "exp", 65, 81, "tensor"),
        (0, "mma", 66, 98, "issue"),
        (0, "exp", 98, 114, "tensor"),
    ]
    assert rate(stream, 1).cycles == 48
    assert rate(stream, 2).cycles == 66
    assert rate(stream, 2).charges == {"tensor": 49, "sfu": 16, "issue": 1}
    assert rate(stream, 2).utilisation["tensor"] == 64 / 66


# The rules, one at a time


def test_a_serial_chain_takes_the_sum_of_its_latencies() -> None:
    times = [("sfu", 8, 20), ("fp32", 2, 4), ("tensor", 8, 25), ("shared_memory", 16, 29)]
    chain = [
        Item(pipe, 1, cycles, latency, needs=((index - 1, 0),) if index else ((3, 1),))
        for index, (pipe, cycles, latency) in enumerate(times)
    ]
    assert rate(block(*chain)).cycles == sum(cycles + latency for _, cycles, latency in times)


@pytest.mark.parametrize("latency", [0, 1, 7, 100])
def test_an_item_issues_when_its_result_is_visible_and_not_before(latency: int) -> None:
    stream = block(
        Item("sfu", 2, 16, latency, name="exp"), Item("alu", 1, 1, 0, ((0, 0),), name="use")
    )
    issued = {e.item: e.issued for e in reversed(events(stream))}
    assert issued["use"] == 16 + latency


@pytest.mark.parametrize("back", [1, 2, 3])
def test_a_result_of_an_earlier_iteration_is_that_of_its_iteration(back: int) -> None:
    stream = block(Item("tensor", 1, 1, latency=99, needs=((0, back),), name="mma"))
    issued = [e.issued for e in events(stream, iterations=2 * back)]
    assert issued[: back + 1] == [*range(back), 100]
    assert rate(stream).cycles == pytest.approx(100 / back, rel=0.02)


def test_a_group_leaves_its_issue_slots_to_others() -> None:
    """Four mma take the slots 0, 8, 16, 24. The other block's ten adds take 1 … 7, 9, 10, 11."""
    roles = (
        Stream((Item("tensor", 4, 32, name="mma"),)),
        Stream((Item("alu", 10, 10, name="add"), Item("fp32", 1, 1, name="next"))),
    )
    issued = {e.item: e.issued for e in reversed(events(roles))}
    assert (issued["mma"], issued["add"], issued["next"]) == (0, 1, 12)


def test_one_instruction_a_cycle_is_a_bound() -> None:
    stream = block(Item("fp32", 16, 16), Item("alu", 16, 16))
    result = rate(stream, 2)
    assert result.cycles == 64
    assert result.utilisation == {"issue": 1.0, "fp32": 0.5, "alu": 0.5}


def test_shared_memory_has_a_queue() -> None:
    """Loads of 16 cycles, one a cycle while fewer than 128 cycles are ahead.

    Load 8 issues at 8 with 8 × 16 − 8 = 120 cycles ahead. Load 9 finds 144 − 9; at 16 there
    are 128, at 17 fewer. Without a queue each waits for the one before.
    """
    stream = block(*[Item("shared_memory", 1, 16, name=f"load {n}") for n in range(10)])
    queued, blocking = events(stream), events(stream, queue_cycles=1)
    assert [e.issued for e in queued[:10]] == [*range(9), 17]
    assert [e.start for e in queued[:10]] == [16 * n for n in range(10)]
    assert [e.issued for e in blocking[:10]] == [16 * n for n in range(10)]


def test_a_group_is_held_by_a_full_queue_like_its_parts() -> None:
    """The tenth of ten loads issues at 17, so the warp goes on at 18."""
    stream = block(Item("shared_memory", 10, 160, name="loads"), Item("alu", 1, 1, name="next"))
    assert [e.issued for e in events(stream)[:2]] == [0, 18]
    assert [e.issued for e in events(stream, queue_cycles=1)[:2]] == [0, 145]


def test_a_group_finds_the_queue_as_others_left_it() -> None:
    """160 cycles are queued. Fewer than 128 are ahead at 33, then each load frees a place."""
    stream = block(
        Item("shared_memory", 10, 160, name="loads"),
        Item("shared_memory", 4, 64, name="more"),
        Item("alu", 1, 1, name="next"),
    )
    assert [e.issued for e in events(stream)[:3]] == [0, 33, 33 + 3 * 16 + 1]


def test_asynchronous_items_wait_in_a_fifo_and_do_not_hold_the_warp() -> None:
    """Two wgmma of 100 cycles issue at 0 and 1 and end at 200. Exp takes 160 beside them.

    A matmul that is not asynchronous issues when its pipe is free, at 100, and exp behind it.
    """
    items = [
        Item("tensor", 1, 100, name="QK", asynchronous=True),
        Item("tensor", 1, 100, name="PV", asynchronous=True),
        Item("sfu", 20, 160, name="exp"),
        Item("wait", 1, 1, needs=((1, 0), (2, 0)), name="wait"),
    ]
    first = {e.item: e for e in reversed(events(block(*items)))}
    assert [first[name].issued for name in ("QK", "PV", "exp", "wait")] == [0, 1, 2, 200]
    assert (first["PV"].start, first["PV"].end) == (100, 200)
    assert rate(block(*items)).cycles == 201
    held = [Item(i.pipe, i.count, i.cycles, 0, i.needs, name=i.name) for i in items]
    assert [e.issued for e in events(block(*held))[:4]] == [0, 100, 101, 261]
    assert rate(block(*held)).cycles == 262


def test_a_barrier_joins_the_warps_of_a_block_and_of_no_other() -> None:
    """In round-robin from warp 1, warps 1, 2, 3, 0 issue exp at 0, 8, 16, 24 and arrive behind.

    Block 1 has both its warps, 2 and 3, at 17 and leaves at 47; block 0 has them at 25.
    """
    stream = block(
        Item("sfu", 1, 8, name="exp"),
        Item("barrier", 1, 1, name="sync"),
        Item("alu", 20, 20, name="next"),
        warps=2,
    )
    turns = trace(stream, 2, barrier_cycles=30, jitter_cycles=0, policy="round-robin")
    arrivals = [(e.block, e.warp, e.issued) for e in turns if e.item == "sync"]
    assert arrivals[:4] == [(0, 1, 1), (1, 0, 9), (1, 1, 17), (0, 0, 25)]
    released = {e.block: e.issued for e in reversed(turns) if e.item == "next"}
    assert released[1] == 47
    assert released[0] >= 55


def test_a_barrier_costs_a_lone_warp_its_release_and_the_delay_of_others() -> None:
    stream = block(Item("alu", 1, 1), Item("barrier", 1, 1))
    assert rate(stream).cycles == 31
    assert rate(stream).charges == {"alu": 1, "barrier": 30}
    jittered = rate(stream, jitter_cycles=60, seeds=8)
    assert 31 + 20 < jittered.cycles < 31 + 40
    assert 0 < jittered.spread < 60


def test_an_asynchronous_barrier_item_arrives_and_does_not_wait() -> None:
    """The producer arrives at 0 and loads at 1; the consumer arrives at 2 and leaves at 32."""
    full = Barrier("full", 2)
    roles = (
        Stream(
            (
                Item("barrier", 1, 1, barrier=full, asynchronous=True, name="arrive"),
                Item("copy", 1, 4, latency=400, name="load"),
                Item("wait", 1, 1, needs=((1, 0),)),
            )
        ),
        Stream((Item("barrier", 1, 1, barrier=full, name="sync"), Item("sfu", 1, 8, name="exp"))),
    )
    first = {e.item: e.issued for e in reversed(events(roles))}
    assert [first[name] for name in ("arrive", "load", "sync", "exp")] == [0, 1, 2, 32]


def test_named_barriers_make_two_roles_take_turns() -> None:
    """Ping-pong: each role's softmax runs beside the other's wgmma, never wgmma beside wgmma."""

    def role(own: Barrier, other: Barrier) -> Stream:
        return Stream(
            (
                Item("barrier", 1, 1, barrier=own, name="my turn"),
                Item("tensor", 1, 500, asynchronous=True, name="wgmma"),
                Item("wait", 1, 1, needs=((1, 0),)),
                Item("barrier", 1, 1, barrier=other, asynchronous=True, name="your turn"),
                Item("sfu", 60, 480, name="exp"),
            )
        )

    ping, pong = Barrier("ping", 2, arrived=1), Barrier("pong", 2)
    roles = (role(ping, pong), role(pong, ping))
    result = rate(roles, barrier_cycles=5)
    assert 1000 <= result.cycles <= 1020
    assert result.utilisation["tensor"] > 0.98
    wgmma = [e.warp for e in events(roles, iterations=6) if e.item == "wgmma"]
    assert wgmma[:6] == [0, 1, 0, 1, 0, 1]


def test_softmax_hides_behind_the_matmul_of_another_block() -> None:
    stream = block(
        Item("tensor", 16, 128, latency=25, needs=((1, 1),), name="mma"),
        Item("sfu", 12, 96, latency=20, needs=((0, 0),), name="exp"),
    )
    alone, pair = rate(stream, 1).cycles, rate(stream, 2).cycles
    assert alone == 128 + 25 + 96 + 20
    assert 256 <= pair < 1.1 * alone


def test_policies_differ_in_who_goes_on() -> None:
    stream = block(Item("alu", 1, 1, name="a"), Item("alu", 1, 1, name="b"))
    greedy = trace(stream, 2, barrier_cycles=30)
    turns = trace(stream, 2, barrier_cycles=30, policy="round-robin")
    assert [e.block for e in greedy[:4]] == [0, 0, 0, 0]
    assert [e.block for e in turns[:4]] == [1, 0, 1, 0]


# Attribution


def test_a_wait_for_a_load_is_charged_to_its_cause() -> None:
    stream = block(
        Item("copy", 1, 4, latency=496, needs=((2, 1),), cause="dram", name="load K"),
        Item("wait", 1, 1, needs=((0, 0),)),
        Item("tensor", 1, 100),
    )
    assert rate(stream).charges == {"copy": 4, "dram": 496, "issue": 1, "tensor": 100}


def test_a_cycle_of_two_waiting_warps_goes_to_the_longer_wait() -> None:
    """In a block of two roles one waits for a load from 1 on, the other for exp from 2 on."""
    sync = Barrier("both", 2)
    roles = (
        Stream(
            (
                Item("copy", 1, 1, latency=99, cause="l2"),
                Item("barrier", 1, 1, needs=((0, 0),), barrier=sync),
            )
        ),
        Stream(
            (
                Item("sfu", 1, 8, latency=20),
                Item("barrier", 1, 1, needs=((0, 0),), barrier=sync),
            )
        ),
    )
    # copy 1, then exp in [1, 9) is work; [9, 100) is the load's; the barrier takes 30.
    assert rate(roles).charges == {"copy": 1, "sfu": 8, "l2": 91, "barrier": 30}


items = st.builds(
    Item,
    pipe=st.sampled_from(["tensor", "sfu", "fp32", "alu", "shared_memory", "copy"]),
    count=st.integers(1, 6),
    cycles=st.integers(0, 40),
    latency=st.integers(0, 30),
    asynchronous=st.booleans(),
)


@st.composite
def blocks(draw: st.DrawFn) -> tuple[Stream, ...]:
    """Random streams: chains, carried results, asynchronous items and block barriers."""
    drawn = draw(st.lists(items, min_size=1, max_size=8))
    for index in range(len(drawn)):
        needs = []
        if index:
            needs = [(n, 0) for n in draw(st.sets(st.integers(0, index - 1), max_size=2))]
        needs += [(n, 1) for n in draw(st.sets(st.integers(0, len(drawn) - 1), max_size=1))]
        old = drawn[index]
        drawn[index] = Item(
            old.pipe, old.count, old.cycles, old.latency, tuple(needs), old.asynchronous
        )
    if draw(st.booleans()):
        drawn.append(Item("barrier", 1, 1))
    return (Stream(tuple(drawn), draw(st.integers(1, 3))),)


@settings(max_examples=150, deadline=None)
@given(blocks(), st.integers(1, 3), st.sampled_from(["greedy-then-oldest", "round-robin"]))
def test_bounds_and_sums_hold(block: tuple[Stream, ...], residents: int, policy: str) -> None:
    arguments: dict[str, Any] = {"barrier_cycles": 30, "seeds": 2, "policy": policy}
    result = steady_rate(block, residents, **arguments)
    for pipe in ("tensor", "sfu", "fp32", "alu", "shared_memory", "copy"):
        work = sum(item.cycles for item in block[0].items if item.pipe == pipe)
        assert result.cycles >= work * block[0].warps_per_scheduler * residents
    assert all(share <= 1 + 1e-12 for share in result.utilisation.values())
    assert sum(result.charges.values()) == pytest.approx(result.cycles, rel=1e-12)
    assert set(result.charges) <= CAUSES


def test_equal_arguments_give_equal_runs_and_other_seeds_others() -> None:
    stream = block(Item("alu", 3, 6, latency=4), Item("barrier", 1, 1), warps=2)
    runs = [events(stream, 2, jitter_cycles=60, seed=seed, iterations=5) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_results_are_cached() -> None:
    stream = block(Item("alu", 3, 6, latency=4), Item("barrier", 1, 1))
    first = steady_rate(stream, 2, barrier_cycles=31)
    again = block(Item("alu", 3, 6, latency=4), Item("barrier", 1, 1))
    assert steady_rate(again, 2, barrier_cycles=31) is first
    assert steady_rate(again, 2, barrier_cycles=32) is not first


# Refusals


def test_a_barrier_nobody_else_reaches_is_a_deadlock() -> None:
    stuck = Item("barrier", 1, 1, barrier=Barrier("turn", 2), name="my turn")
    with pytest.raises(ValueError, match="deadlock: every warp waits at a barrier: my turn"):
        rate(block(Item("alu", 1, 1), stuck))


def test_roles_that_nothing_holds_together_have_no_rate() -> None:
    """Greedy, the first role never lets the second issue."""
    roles = (Stream((Item("alu", 1, 1),)), Stream((Item("fp32", 1, 1),)))
    with pytest.raises(ValueError, match="the roles run apart"):
        rate(roles)


def test_a_barrier_described_in_two_ways_is_refused() -> None:
    stream = block(
        Item("barrier", 1, 1, barrier=Barrier("b", 1)),
        Item("barrier", 1, 1, barrier=Barrier("b", 2)),
    )
    with pytest.raises(ValueError, match="barrier 'b' is described in 2 ways"):
        rate(stream)


@pytest.mark.parametrize(
    ("residents", "changes", "message"),
    [
        (0, {}, "0 blocks of 1 roles"),
        (1, {"seeds": 0}, "seeds is 0"),
        (1, {"queue_cycles": 0}, "queue_cycles 0"),
        (1, {"barrier_cycles": -1}, "barrier_cycles is -1"),
        (1, {"policy": "oldest"}, "policy is 'oldest'"),
    ],
)
def test_arguments_out_of_range_are_refused(
    residents: int, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rate(block(Item("alu", 1, 1)), residents, **changes)
