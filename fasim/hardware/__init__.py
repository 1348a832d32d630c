"""The hardware: a GPU as primary facts, and the YAML profiles they are read from."""

from fasim.hardware.catalogue import SHORT_NAMES, shipped
from fasim.hardware.changes import Change, Changes, compare
from fasim.hardware.derived import DERIVED, Derived
from fasim.hardware.faults import Fault, Position, ProfileError
from fasim.hardware.gpu import Gpu
from fasim.hardware.layer import Provenance
from fasim.hardware.parts import (
    ClockDomain,
    Dram,
    HostLink,
    L2Cache,
    LaunchCost,
    Multiprocessor,
    Pipe,
    PowerBudget,
    SharedMemory,
    TensorCore,
    TensorRates,
)
from fasim.hardware.profile import Profile, load, parse_overrides, with_overrides

__all__ = [
    "DERIVED",
    "SHORT_NAMES",
    "Change",
    "Changes",
    "ClockDomain",
    "Derived",
    "Dram",
    "Fault",
    "Gpu",
    "HostLink",
    "L2Cache",
    "LaunchCost",
    "Multiprocessor",
    "Pipe",
    "Position",
    "PowerBudget",
    "Profile",
    "ProfileError",
    "Provenance",
    "SharedMemory",
    "TensorCore",
    "TensorRates",
    "compare",
    "load",
    "parse_overrides",
    "shipped",
    "with_overrides",
]
