"""Streams that cannot run are refused where they are made."""

from __future__ import annotations

import pytest

from fasim.simulator.stream import Barrier, Item, Stream, latency_left


def test_streams_that_cannot_run_are_refused() -> None:
    with pytest.raises(ValueError, match=r"deadlock: item 'softmax' \(item 0\) needs 'QK'"):
        Stream((Item("sfu", 1, 8, 0, ((1, 0),), name="softmax"), Item("tensor", 1, 8, name="QK")))
    with pytest.raises(ValueError, match="needs item 2 of a stream of 1"):
        Stream((Item("sfu", 1, 8, needs=((2, 1),)),))
    with pytest.raises(ValueError, match="look into the future"):
        Item("sfu", 1, 8, needs=((0, -1),))
    with pytest.raises(ValueError, match="pipe is 'mufu'; choose from tensor"):
        Item("mufu", 1, 8)
    with pytest.raises(ValueError, match="count is 0"):
        Item("sfu", 0, 8)
    with pytest.raises(ValueError, match="0 items"):
        Stream(())
    with pytest.raises(ValueError, match="arrived is 2 of 2"):
        Barrier("full", 2, arrived=2)
    with pytest.raises(ValueError, match="a barrier on the pipe 'sfu'"):
        Item("sfu", 1, 8, barrier=Barrier("b", 1))


def test_an_item_is_called_and_charged_by_its_pipe_unless_told_otherwise() -> None:
    assert (Item("sfu", 1, 8).name, Item("sfu", 1, 8).cause) == ("sfu", "sfu")
    load = Item("copy", 1, 8, cause="l2", name="load K")
    assert (load.name, load.cause) == ("load K", "l2")


def test_a_latency_holds_the_instructions_own_time_in_its_pipe() -> None:
    assert latency_left(24.7, 8) == 17
    assert latency_left(4, 2) == 2
    assert latency_left(4, 8) == 0
