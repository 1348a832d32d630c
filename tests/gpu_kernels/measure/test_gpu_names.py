"""Every name of a GPU is that of a shipped profile, or its own."""

from __future__ import annotations

import pytest

from fasim.hardware import load, shipped
from gpu_kernels.measure.gpu_names import PROFILES, profile_name


def test_profiles_are_shipped() -> None:
    assert set(PROFILES.values()) <= set(shipped())
    real = {name for name in shipped() if not load(name).extends}
    assert real - set(PROFILES.values()) == set()


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H200", "h200-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm5"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA H200 NVL", "h200-nvl"),
        ("NVIDIA H200 MIG 1g.18gb", "h200-mig-1g-18gb"),
        ("", "gpu"),
    ],
)
def test_a_name(device: str, name: str) -> None:
    assert profile_name(device) == name
