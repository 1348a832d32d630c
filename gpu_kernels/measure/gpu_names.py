"""What fasim's profiles call a GPU that names itself."""

from __future__ import annotations

import re

# Names as the driver gives them, without the maker's. Another memory, form factor or a slice of a
# GPU (MIG) is another device, and has no profile here.
PROFILES = {
    "A100-SXM4-40GB": "a100-sxm4-40gb",
    "A100-SXM4-80GB": "a100-sxm4-80gb",
    "A100 80GB PCIe": "a100-pcie-80gb",
    "H100 80GB HBM3": "h100-sxm5",
    "H100 PCIe": "h100-pcie",
    "H200": "h200-sxm",
    "B200": "b200-sxm",
    "L4": "l4",
    "L40S": "l40s",
    "GeForce RTX 3090": "rtx3090",
    "GeForce RTX 4090": "rtx4090",
}


def profile_name(device: str) -> str:
    """The profile of a device's name; of an unknown one the name itself, in small letters.

    `fasim profiles detect` writes a profile for a GPU that has none, and knows this name.
    """
    name = device.strip().removeprefix("NVIDIA ")
    return PROFILES.get(name) or "-".join(re.findall(r"[a-z0-9]+", name.lower())) or "gpu"
