import pytest

from fasim.hardware import load
from fasim.simulator.lowering.elementwise import elements_in_flight

GPU = load("a100").gpu


@pytest.mark.parametrize(
    ("lanes", "latency", "elements"),
    [(16, 20, 3), (16, 16, 2), (32, 20, 5), (16, 1, 1), (4, 20, 1)],
)
def test_as_many_elements_are_in_flight_as_the_latency_covers(lanes, latency, elements):
    """16 lanes take a warp's 32 exponentials, times four schedulers, in 8 cycles."""
    sfu = GPU.sfu.model_copy(update={"lanes": lanes, "latency_cycles": latency})
    assert elements_in_flight(GPU.model_copy(update={"sfu": sfu})) == elements
