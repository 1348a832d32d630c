"""What Triton 3.9's pipeliner does to a lowered loop: waits, copies, barriers."""

from dataclasses import replace

import pytest

from fasim.hardware import load
from fasim.problem import Attention
from fasim.schedules.catalog import plan
from fasim.schedules.record import record
from fasim.simulator.lowering import lower, main_loop


def loop(gpu_name, name, direction="backward", **changes):
    gpu = load(gpu_name).gpu
    problem = Attention(1, 1, 4096, 4096, 64, direction=direction)
    kernels = plan(problem, gpu, None, "gpu-kernels").kernels
    (kernel,) = (each for each in kernels if each.name == name)
    recorded = record(replace(kernel, mapping=replace(kernel.mapping, **changes)))
    return lower(recorded, gpu, main_loop(recorded)).plain[0].items


def positions(items, *pipes):
    return [index for index, item in enumerate(items) if item.pipe in pipes]


@pytest.mark.parametrize("gpu_name", ["a100", "h100"])
def test_tiles_are_awaited_first_and_copied_last(gpu_name):
    items = loop(gpu_name, "key_value_pass", list_scheduled=False)
    waits = [item.name for item in items if item.name.startswith("wait ")]
    assert waits == ["wait Q", "wait dO", "wait LSE", "wait delta"]
    assert max(positions(items, "tensor")) < min(positions(items, "copy"))
    assert items[len(waits)].pipe == "barrier"
    barriers = positions(items, "barrier")
    assert max(positions(items, "tensor")) < barriers[-1] < min(positions(items, "copy"))


@pytest.mark.parametrize(("gpu_name", "stages", "back"), [("a100", 3, 2), ("h100", 2, 1)])
def test_a_product_in_flight_keeps_its_tile(gpu_name, stages, back):
    """As compiled: DEPBAR.LE leaves one iteration's copies on A100, and none on H100."""
    items = loop(gpu_name, "query_pass")
    (wait,) = (item for item in items if item.name == "wait K")
    assert [iterations for _, iterations in wait.needs] == [back]
    assert back == stages - 1


@pytest.mark.parametrize(
    ("name", "direction", "barriers"),
    [
        ("flash2_forward", "forward", 3),
        ("key_value_pass", "backward", 4),
        ("query_pass", "backward", 4),
    ],
)
def test_on_hopper_the_block_joins_as_often_as_in_the_compiled_loop(name, direction, barriers):
    assert len(positions(loop("h100", name, direction), "barrier")) == barriers
    assert len(positions(loop("a100", name, direction), "barrier")) == 2


def test_instructions_are_mixed_around_mma_sync_alone():
    def mixed(items):
        last_product = max(positions(items, "tensor"))
        return any(index < last_product for index in positions(items, "sfu")[-8:])

    assert mixed(loop("a100", "flash2_forward", "forward"))
    assert loop("a100", "query_pass") != loop("a100", "query_pass", list_scheduled=False)
    assert loop("h100", "query_pass") == loop("h100", "query_pass", list_scheduled=False)
