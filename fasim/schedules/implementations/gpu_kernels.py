"""The kernels of `gpu_kernels`: flash2 forward and two-pass backward in Triton.

The programs of Triton's tutorial. Tiles are large ones among the usual that Triton 3.9 compiles
without a spill, causal and not; no time was looked at.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules.compiled_loop import CompiledLoop, stored_loop
from fasim.schedules.implementations.triton import (
    Pick,
    Picks,
    check,
    plan_of,
)
from fasim.schedules.language import Kernel
from fasim.schedules.plan import Entry, Options, Plan, Refused, listed

if TYPE_CHECKING:
    from fasim.hardware import Gpu

NAME = "gpu-kernels"
SOURCE = "gpu_kernels/, as Triton 3.9 compiles them"
# Whose main loops are kept as compiled (gpu_kernels/compiled/).
COMPILED_KERNELS = ("flash2_forward", "key_value_pass", "query_pass")
COMPILED_ARCHITECTURES = ("sm_80", "sm_89", "sm_90")
COMPILED_HEAD_DIMS = (64, 128)
COMPILED_DTYPE = "fp16"

# By architecture: up to head_dim 64, and beyond.
PICKS = {
    "sm_80": (
        Picks(Pick(128, 64, 4, 3), Pick(32, 64, 4, 3), Pick(128, 32, 4, 3)),
        Picks(Pick(128, 64, 8, 3), Pick(16, 128, 8, 3), Pick(128, 32, 8, 3)),
    ),
    "sm_89": (
        Picks(Pick(128, 64, 4, 3), Pick(32, 64, 4, 3), Pick(128, 32, 4, 3)),
        Picks(Pick(128, 64, 8, 3), Pick(16, 128, 8, 3), Pick(128, 32, 8, 3)),
    ),
    "sm_90": (
        Picks(Pick(128, 128, 8, 3), Pick(64, 128, 8, 2), Pick(128, 64, 8, 2)),
        Picks(Pick(128, 64, 8, 3), Pick(32, 128, 8, 3), Pick(128, 64, 8, 2)),
    ),
    "sm_100": (
        Picks(Pick(128, 128, 8, 3), Pick(64, 128, 8, 2), Pick(128, 64, 8, 2)),
        Picks(Pick(128, 64, 8, 3), Pick(64, 128, 8, 2), Pick(128, 64, 8, 2)),
    ),
}
# What comes step by step in the loops of attention's kernels.
STEPS = {
    "flash2_forward": ("K", "V"),
    "key_value_pass": ("Q", "dO", "LSE", "delta"),
    "query_pass": ("K", "V"),
}


def picks(architecture: str, head_dim: int) -> Picks:
    """Of both directions; an architecture without tiles of its own takes those of sm_89."""
    narrow, wide = PICKS.get(architecture, PICKS["sm_89"])
    return narrow if head_dim <= 64 else wide


def _build(problem: Attention, gpu: Gpu, options: Options) -> Plan:
    chosen = picks(gpu.architecture, problem.head_dim)
    planned = plan_of(NAME, SOURCE, chosen, problem, gpu, options)
    planned = replace(planned, kernels=tuple(map(_pipelined, planned.kernels)))
    return planned if options.stream != "compiled" else _compiled(planned, problem, gpu)


def _pipelined(kernel: Kernel) -> Kernel:
    """A kernel as Triton 3.9 pipelines its loop (TTGIR, SASS).

    All tiles of a step, single values of rows too, come ahead and are waited for together before
    the first product; the next copies are issued last. ptxas mixes what mma.sync multiplies with
    what goes on beside it; around wgmma the order is kept, which agrees better with T(r) of the
    compiled loops, though they mix there too (docs/streams.md).
    """
    steps = STEPS.get(kernel.name)
    if steps is None:
        return kernel
    mapping = kernel.mapping
    wgmma = mapping.matrix_unit == "wgmma"
    ahead = mapping.buffer_count(steps[0])
    rows = tuple((name, ahead) for name in steps if not mapping.buffer_count(name))
    return replace(
        kernel,
        mapping=replace(
            mapping,
            buffers=(*mapping.buffers, *rows),
            wait_before=tuple((name, "S") for name in steps),
            copies_last=True,
            list_scheduled=not wgmma,
            joins_products=wgmma,
        ),
    )


def _compiled(planned: Plan, problem: Attention, gpu: Gpu) -> Plan:
    """The plan with its main loops as they were compiled.

    Raises:
        Refused: they were not kept for this problem, this GPU or this tile.
    """
    for name, value, kept in (
        ("architecture", gpu.architecture, COMPILED_ARCHITECTURES),
        ("head_dim", problem.head_dim, COMPILED_HEAD_DIMS),
        ("dtype", problem.dtype, (COMPILED_DTYPE,)),
    ):
        if value not in kept:
            only = listed([str(each) for each in kept])
            raise Refused(NAME, f"{name} is {value}; compiled streams are kept for {only}")
    loops = list[CompiledLoop]()
    for kernel in planned.kernels:
        if kernel.name not in COMPILED_KERNELS:
            continue
        loop = stored_loop(kernel.name, problem.head_dim, gpu.architecture)
        assert loop is not None  # a test sees to it
        tile = (kernel.tiles["q"], kernel.tiles["k"])
        if tile != loop.tile:
            asked, kept_tile = ("x".join(map(str, each)) for each in (tile, loop.tile))
            raise Refused(
                NAME, f"tile of {kernel.name} is {asked}; its stream was compiled for {kept_tile}"
            )
        loops.append(loop)
    toolchains = listed(sorted({loop.toolchain for loop in loops}))
    said = [f"main loops are streams compiled by {toolchains} for {gpu.architecture}"]
    if problem.masked:
        said.append("what the mask costs is taken from lowering: compiled streams have none")
    return replace(planned, assumptions=(*planned.assumptions, *said), compiled=tuple(loops))


ENTRY = Entry(
    name=NAME,
    schedule="flash2",
    title="fasim's own Triton kernels; backward in two passes, without atomics",
    source=SOURCE,
    needs="fp16 or bf16, head_dim 16, 32, 64 or 128",
    build=_build,
    check=check,
    takes=("tile", "stream"),
)
