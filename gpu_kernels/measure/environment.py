"""What a row says of where it was measured: the GPU, its state, and the versions of everything."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpu_kernels.measure.gpu_names import profile_name

SMI_FIELDS = ("driver_version", "ecc.mode.current", "mig.mode.current")
SECONDS = 30  # of a query

Ask = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class Environment:
    """The GPU under test.

    Attributes:
        gpu: the name of its profile. device: what it calls itself. uuid: as nvidia-smi takes it.
        ecc, mig: Enabled or Disabled; empty where the driver does not say.
    """

    gpu: str
    device: str
    architecture: str
    sm_count: int
    l2_bytes: int
    memory_bytes: int
    torch: str
    triton: str
    cuda: str
    driver: str = ""
    ecc: str = ""
    mig: str = ""
    uuid: str = ""

    @property
    def software(self) -> str:
        """Versions in a line."""
        parts = (f"torch {self.torch}", f"triton {self.triton}", f"CUDA {self.cuda}")
        driver = (f"driver {self.driver}",) if self.driver else ()
        return ", ".join((*parts, *driver))


def find_environment(ask: Ask | None = None) -> Environment:
    """Of the first GPU that torch sees.

    Args:
        ask: runs a command and returns what it printed, nothing if it failed; injected by tests.
    """
    import torch
    import triton

    found = torch.cuda.get_device_properties(0)
    uuid = str(getattr(found, "uuid", ""))
    uuid = f"GPU-{uuid}" if uuid and not uuid.startswith(("GPU-", "MIG-")) else uuid
    driver, ecc, mig = ask_smi(uuid, ask or run)
    return Environment(
        gpu=profile_name(found.name),
        device=found.name,
        architecture=f"sm_{found.major}{found.minor}",
        sm_count=found.multi_processor_count,
        l2_bytes=found.L2_cache_size,
        memory_bytes=found.total_memory,
        torch=torch.__version__,
        triton=triton.__version__,
        cuda=str(torch.version.cuda),
        driver=driver,
        ecc=ecc,
        mig=mig,
        uuid=uuid,
    )


def ask_smi(uuid: str, ask: Ask) -> tuple[str, str, str]:
    """Driver, ECC and MIG as nvidia-smi says; empty where it does not."""
    program = shutil.which("nvidia-smi") or "nvidia-smi"
    query = [program, f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader,nounits"]
    lines = ask([*query, "-i", uuid] if uuid else query).strip().splitlines()
    cells = [cell.strip() for cell in lines[0].split(",")] if lines else []
    if len(cells) != len(SMI_FIELDS):
        return "", "", ""
    driver, ecc, mig = ("" if cell.startswith("[") else cell for cell in cells)
    return driver, ecc, mig


def run(command: Sequence[str]) -> str:
    """What a command prints; nothing if it fails or cannot start."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
