"""List scheduling: what may pass what."""

from fasim.simulator.lowering.reorder import list_scheduled
from fasim.simulator.stream import Item


def names(items):
    return [item.name for item in list_scheduled(items)]


def item(name, pipe="fp32", cycles=2, latency=4, needs=(), **more):
    return Item(pipe, 1, cycles, latency, needs, name=name, **more)


def test_what_is_ready_passes_what_waits():
    items = [item("a", latency=20), item("b", needs=((0, 0),)), item("c"), item("d")]
    assert names(items) == ["a", "c", "d", "b"]


def test_a_full_pipe_lets_others_pass():
    items = [item("exp", "sfu", 8), item("exp2", "sfu", 8), item("mma", "tensor", 8)]
    assert names(items) == ["exp", "mma", "exp2"]


def test_of_what_can_issue_alike_the_first_in_the_program_comes_first():
    items = [item("a"), item("b", "alu"), item("c", "sfu")]
    assert names(items) == ["a", "b", "c"]


def test_nothing_passes_a_barrier():
    items = [
        item("a", latency=50),
        item("b", needs=((0, 0),)),
        Item("barrier", 1, 0),
        item("c", "alu"),
    ]
    assert names(items) == ["a", "b", "barrier", "c"]


def test_needs_follow_their_items():
    items = [
        item("a", latency=20),
        item("b", needs=((0, 0), (3, 1))),
        item("c", needs=((1, 1),)),
        item("d", needs=((2, 0),)),
    ]
    made = list_scheduled(items)

    def said(stream):
        return {each.name: {(stream[n].name, back) for n, back in each.needs} for each in stream}

    assert said(made) == said(items)
    assert [each.name for each in made] != [each.name for each in items]
