"""`python -m gpu_kernels.measure.one_case`: one attention call, for a profiler to look at.

What comes before the call — operands, compilation, a flush of L2 — is outside of what is profiled.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from fasim.problem import Attention


def arguments_of(implementation: str, problem: Attention) -> list[str]:
    """The command line that runs this call."""
    sizes = ("batch", "heads", "kv_heads", "seqlen_q", "seqlen_k", "head_dim")
    words = [f"--{name.replace('_', '-')}={getattr(problem, name)}" for name in sizes]
    words += [f"--dtype={problem.dtype}", f"--direction={problem.direction}"]
    return [implementation, *words, *(["--causal"] if problem.causal else [])]


def parse(arguments: Sequence[str] | None = None) -> tuple[str, Attention]:
    """The implementation and the problem that a command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m gpu_kernels.measure.one_case",
        description="Runs one attention call between cudaProfilerStart and cudaProfilerStop.",
    )
    parser.add_argument("implementation")
    for name in ("batch", "heads", "kv-heads", "seqlen-q", "seqlen-k", "head-dim"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--dtype", default="fp16")
    parser.add_argument("--direction", default="forward")
    parser.add_argument("--causal", action="store_true")
    asked = vars(parser.parse_args(arguments))
    return asked.pop("implementation"), Attention(**asked)


def run(implementation: str, problem: Attention, device: Any = None, profiler: Any = None) -> None:
    """The call, cold.

    Args:
        device, profiler: instead of the GPU and `torch.cuda.profiler`, for tests.
    """
    import torch

    from gpu_kernels.measure.device import Device
    from gpu_kernels.measure.environment import find_environment
    from gpu_kernels.measure.implementations import BY_NAME, operands

    device = device or Device(find_environment())
    profiler = profiler or torch.cuda.profiler
    with BY_NAME[implementation].prepare(problem, operands(device, problem)) as call:
        call()
        device.flush_l2()
        device.synchronize()
        profiler.start()
        call()
        device.synchronize()
        profiler.stop()


if __name__ == "__main__":
    run(*parse())
    sys.exit(0)
