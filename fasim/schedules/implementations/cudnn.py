"""cuDNN's attention on Hopper: its published open kernel stands in for the closed engines.

Source: NVIDIA/cudnn-frontend 1.23 at 3929da2e, the sm90 forward kernel for head dimensions 64 and
128. Which engine the library's heuristic would take, and how that one is tiled, is not public.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules import flash3
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Entry, Options, Plan, check_forward, listed
from fasim.schedules.tiling import Tiling

if TYPE_CHECKING:
    from fasim.hardware import Gpu

SOURCE = "NVIDIA/cudnn-frontend 1.23 at 3929da2e, open sm90 forward kernel"
HEAD_DIMS = (64, 128)
DTYPES = ("fp16", "bf16")
TILE = (128, 128)
STAND_IN = "cuDNN's published open kernel stands in for its closed engines"


def mapping(head_dim: int, dtype: str) -> Mapping:
    """Two warpgroups in turns and a producer; Q, K and V in two buffers each.

    PV follows its own softmax: the published kernel delays nothing. Tiles are taken from a
    counter that a launch of its own zeroes, row tile fastest, whatever their length.
    """
    return replace(
        flash3.mapping(TILE, head_dim, dtype),
        buffers=(("Q", 2), ("K", 2), ("V", 2)),
        delayed=(),
        computing_registers=232,
        extra_launches=1,
        source=SOURCE,
    )


def kernel_head_dim(head_dim: int) -> int | None:
    """The compiled head dimension that runs `head_dim`; None if it is too large."""
    return next((d for d in HEAD_DIMS if head_dim <= d), None)


def _build(problem: Attention, _: Gpu, __: Options) -> Plan:
    compiled = kernel_head_dim(problem.head_dim)
    assert compiled is not None  # checked before
    mapped = mapping(compiled, problem.dtype)
    kernels = flash3.kernels(problem, Tiling(*TILE), mapped, compiled)
    return Plan("flash3", "cudnn", kernels, TILE, (STAND_IN,))


def _check(problem: Attention, gpu: Gpu) -> str | None:
    fault = flash3.lacking(gpu)
    if fault is not None:
        return fault
    if problem.dtype not in DTYPES:
        return f"it takes {listed(DTYPES)}, not {problem.dtype}"
    if kernel_head_dim(problem.head_dim) is None:
        return f"it takes head_dim up to {HEAD_DIMS[-1]}, not {problem.head_dim}"
    return check_forward(problem, gpu)


ENTRY = Entry(
    name="cudnn",
    schedule="flash3",
    title="cuDNN on Hopper; its published open kernel stands in",
    source=SOURCE,
    needs="wgmma and tma (Hopper); fp16 or bf16, head_dim up to 128",
    build=_build,
    check=_check,
    takes=(),
)
