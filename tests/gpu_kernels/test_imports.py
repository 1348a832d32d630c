"""gpu_kernels needs torch, triton, numpy and the standard library, and of fasim its tables."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

import gpu_kernels

NEITHER_LIBRARY = ("simpy", "pydantic", "yaml", "typer", "rich", "matplotlib", "hypothesis")
NOR_ROOM = ("fasim.hardware", "fasim.readings", "fasim.simulator", "fasim.verbs", "fasim.report")


def modules() -> list[str]:
    found = pkgutil.walk_packages(gpu_kernels.__path__, "gpu_kernels.")
    return [module.name for module in found if not module.ispkg]


def run(code: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_alone_loads_neither_torch_nor_triton() -> None:
    loaded = run("import gpu_kernels, sys; print(*sys.modules)").split()
    assert not {"torch", "triton", "numpy"} & set(loaded)


def test_every_module_loads_without_the_rest_of_fasim() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    blocked = (*NEITHER_LIBRARY, *NOR_ROOM)
    wanted = [name for name in modules() if not name.endswith("__main__")]
    assert {"gpu_kernels.forward", "gpu_kernels.interpret.counting"} <= set(wanted)
    run(
        "import importlib, sys\n"
        f"for name in {blocked!r}:\n"
        "    sys.modules[name] = None\n"
        f"for name in {wanted!r}:\n"
        "    importlib.import_module(name)\n"
        "import torch\n"
        "assert not torch.cuda.is_initialized()\n"
    )
