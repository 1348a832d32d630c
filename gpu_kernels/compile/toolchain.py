"""The disassembler that comes with Triton, and the versions of what compiles."""

from __future__ import annotations

import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import triton
from triton import knobs
from triton.backends.nvidia.compiler import get_ptxas_version


@cache
def toolchain_version(capability: int) -> str:
    """Triton's and ptxas's version: with other ones the same source compiles otherwise."""
    release = re.search(r"\bV(\d[\d.]*)", get_ptxas_version(capability))
    return f"triton {triton.__version__}, ptxas {release[1] if release else 'unknown'}"


def disassemble(cubin: bytes) -> tuple[str, str]:
    """The SASS of a binary, and the resources its functions use, both as cuobjdump prints them."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        return _cuobjdump("-sass", file), _cuobjdump("-res-usage", file)


def _cuobjdump(flag: str, file: Path) -> str:
    command = [knobs.nvidia.cuobjdump.path, flag, str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
