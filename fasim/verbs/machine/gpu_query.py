"""The GPU of this machine: asked of nvidia-smi and, in a process of its own, of torch.

fasim imports neither: torch takes over a second, and what it finds is all that is needed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]

SMI_FIELDS = (
    "name",
    "compute_cap",
    "driver_version",
    "memory.total",
    "clocks.max.sm",
    "clocks.max.memory",
    "power.default_limit",
)
# Attributes of torch.cuda.get_device_properties; older versions lack the last two.
TORCH_FIELDS = (
    "name",
    "major",
    "minor",
    "total_memory",
    "multi_processor_count",
    "max_threads_per_multi_processor",
    "warp_size",
    "regs_per_multiprocessor",
    "shared_memory_per_multiprocessor",
    "shared_memory_per_block_optin",
    "L2_cache_size",
    "memory_clock_rate",
    "memory_bus_width",
)
TORCH_CODE = f"""
import json, torch
if not torch.cuda.is_available():
    print(json.dumps(None))
else:
    found = torch.cuda.get_device_properties(0)
    names = {TORCH_FIELDS!r}
    print(json.dumps({{n: getattr(found, n) for n in names if hasattr(found, n)}}))
"""
SECONDS = 120  # of a query; importing torch from a cold disk takes a while


class NoGpu(Exception):
    """What was asked for needs a GPU, or torch, that is not there; one line."""


@dataclass(frozen=True)
class GpuQuery:
    """What the tools of this machine say of its first GPU, as they name it.

    Attributes:
        smi: fields of `nvidia-smi --query-gpu`: text without units; only those it knows.
        torch: attributes of `torch.cuda.get_device_properties`; empty without torch.
    """

    smi: dict[str, str] = field(default_factory=dict)
    torch: dict[str, int | str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.torch.get("name") or self.smi["name"])

    @property
    def architecture(self) -> str:
        """The compute capability as fasim writes it: 9.0 is `sm_90`.

        Raises:
            NoGpu: neither tool says it.
        """
        if "major" in self.torch:
            return f"sm_{self.torch['major']}{self.torch['minor']}"
        if "compute_cap" not in self.smi:
            raise NoGpu(f"{self.name}: nvidia-smi does not tell its compute capability")
        return f"sm_{self.smi['compute_cap'].replace('.', '')}"


def query_gpu(run: Run | None = None) -> GpuQuery:
    """Asks both tools.

    Args:
        run: runs a command and captures its output; injected by tests.

    Raises:
        NoGpu: neither finds a GPU.
    """
    run = run or run_command
    query = GpuQuery(_ask_smi(run), _ask_torch(run))
    if not query.smi and not query.torch:
        raise NoGpu("no NVIDIA GPU in this machine: neither nvidia-smi nor torch finds one")
    return query


def run_command(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A command with its output; one that cannot start is one that fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as fault:
        return subprocess.CompletedProcess(command, 127, "", str(fault))


def has_torch() -> bool:
    """Whether torch and triton are installed, without importing them."""
    return find_spec("torch") is not None and find_spec("triton") is not None


def _ask_smi(run: Run) -> dict[str, str]:
    """The first GPU of nvidia-smi; fields it says nothing of (`[N/A]`) are left out."""
    program = shutil.which("nvidia-smi") or "nvidia-smi"
    fields = ",".join(SMI_FIELDS)
    done = run([program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"])
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {}
    cells = [cell.strip() for cell in lines[0].split(",")]
    if len(cells) != len(SMI_FIELDS):
        return {}
    found = zip(SMI_FIELDS, cells, strict=True)
    return {name: cell for name, cell in found if cell and not cell.startswith("[")}


def _ask_torch(run: Run) -> dict[str, int | str]:
    """The properties of torch's first GPU; none if torch is not there or sees no GPU."""
    done = run([sys.executable, "-c", TORCH_CODE])
    try:
        found = json.loads(done.stdout) if done.returncode == 0 else None
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}
