"""Shared by the tests of readings: a GPU to plan for."""

import pytest

from fasim.hardware import Gpu, load


@pytest.fixture(scope="session")
def a100() -> Gpu:
    return load("a100").gpu
