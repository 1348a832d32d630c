"""The catalogue: every schedule and implementation by name, what it needs, how it is planned."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules.fit import largest_fit, overflow
from fasim.schedules.implementations import (
    accumulated_gradients,
    cudnn,
    flash_attn_1,
    flash_attn_2,
    flash_attn_3,
    gpu_kernels,
    gpu_kernels_decode,
    gpu_kernels_standard,
    megatron,
    pytorch,
    pytorch_flash,
    pytorch_math,
    textbook,
    textbook_softmax,
    triton,
    triton_autotuned,
    triton_ops,
    xformers_cutlass,
)
from fasim.schedules.plan import Entry, Options, Plan, Refused, flag, listed
from fasim.schedules.tiling import Tiling

if TYPE_CHECKING:
    from fasim.hardware import Gpu


# SCHEDULES compute attention; SOFTMAXES only a part of it, and run when they are named.
SOFTMAXES = {entry.name: entry for entry in textbook_softmax.ENTRIES}
SCHEDULES = {entry.name: entry for entry in (*textbook.ENTRIES, flash_attn_3.SCHEDULE)}
NAMED_SCHEDULES = {**SCHEDULES, **SOFTMAXES}
# Queries of a group of heads that fill one row tile: up to so many it is decoding.
DECODED_ROWS = 64
FEATURES = ("dropout", "window")  # of a problem, that not every kernel has


IMPLEMENTATIONS = {
    entry.name: entry
    for entry in (
        flash_attn_1.FIRST_RELEASE,
        flash_attn_1.ENTRY,
        flash_attn_2.ENTRY,
        flash_attn_3.ENTRY,
        cudnn.ENTRY,
        gpu_kernels.ENTRY,
        gpu_kernels_standard.ENTRY,
        gpu_kernels_decode.DECODE,
        gpu_kernels_decode.SPLIT_KV,
        megatron.ENTRY,
        pytorch.ENTRY,
        pytorch_flash.ENTRY,
        pytorch_math.ENTRY,
        triton.ENTRY,
        triton_autotuned.ENTRY,
        triton_ops.ENTRY,
        xformers_cutlass.ENTRY,
    )
}


def usual_schedules(problem: Attention) -> list[str]:
    """The schedules to look at where none is named; those for decoding if that is what it is."""
    return _usual(problem, SCHEDULES)


def usual_implementations(problem: Attention) -> list[str]:
    """All of them, but those for decoding only if that is what it is."""
    return _usual(problem, IMPLEMENTATIONS)


def _usual(problem: Attention, entries: dict[str, Entry]) -> list[str]:
    decoding = problem.seqlen_q * problem.group <= DECODED_ROWS
    return [name for name, entry in entries.items() if decoding or not entry.decodes]


def find(name: str, entries: dict[str, Entry], kind: str) -> Entry:
    """The entry of that name.

    Raises:
        Refused: there is none; the message names the closest and all there are.
    """
    if name in entries:
        return entries[name]
    close = difflib.get_close_matches(name, entries, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise Refused(name, f"unknown {kind}; {hint}there are {', '.join(entries)}")


def plan(
    problem: Attention,
    gpu: Gpu,
    schedule: str | None = None,
    implementation: str | None = None,
    options: Options | None = None,
) -> Plan:
    """The kernels that a schedule, or an implementation where one is given, makes of a problem.

    A schedule whose usual tile does not fit takes the largest inside it that does, and says so;
    a tile that was asked for, or that an implementation prescribes, is refused.

    Args:
        schedule: flash2 where neither it nor an implementation is given.
        options: what to take instead of the schedule's usual tile.

    Raises:
        Refused: an unknown name, a problem or GPU it does not take, a tile that does not fit
            an SM; the message says what was asked, what there is, what would work.
        ProblemError: the sides of the tile are not positive multiples of 16.
    """
    if implementation is not None:
        entry = find(implementation, IMPLEMENTATIONS, "implementation")
        if schedule is not None and schedule != entry.schedule:
            find(schedule, NAMED_SCHEDULES, "schedule")
            raise Refused(implementation, f"its schedule is {entry.schedule}, not {schedule}")
    else:
        entry = find(schedule or "flash2", NAMED_SCHEDULES, "schedule")
    options = options or Options()
    if options.tile is not None:
        Tiling(*options.tile)  # refuses impossible sides, for GEMMs too
    if options.accumulates_grads and problem.direction == "forward":
        raise Refused(entry.name, "--accumulates-grads: forward leaves no gradients")
    for name in options.given:
        if name not in (*entry.takes, "accumulates_grads"):
            taken = [flag(other) for other in entry.takes]
            only = f", only {listed(taken)}" if taken else ""
            raise Refused(entry.name, f"it takes no {flag(name)}{only}")
    for name in FEATURES:
        if getattr(problem, name) and name not in entry.features:
            asked = str(getattr(problem, name)).strip("()").replace(", ", ",")
            raise Refused(entry.name, f"{name} is {asked}; it has no {name}")
    reason = entry.check(problem, gpu)
    if reason is not None:
        raise Refused(entry.name, reason)
    planned = _accumulated(entry.build(problem, gpu, options), problem, options)
    fault = overflow(planned, gpu)
    if fault is None:
        return planned
    asked = f"tile {planned.tile[0]}x{planned.tile[1]} {fault}"
    fitting = largest_fit(entry, problem, gpu, options, planned.tile)
    if fitting is None:
        raise Refused(entry.name, f"{asked}; no tile fits head_dim {problem.head_dim}")
    fitting = _accumulated(fitting, problem, options)
    largest = f"{fitting.tile[0]}x{fitting.tile[1]}"
    if options.tile is not None or implementation is not None:
        raise Refused(entry.name, f"{asked}; the largest that fits is {largest}")
    return replace(fitting, assumptions=(*fitting.assumptions, f"{asked}; {largest} instead"))


def plans(
    problem: Attention,
    gpu: Gpu,
    schedule: str | None = None,
    implementation: str | None = None,
    options: Options | None = None,
) -> tuple[Plan, ...]:
    """What `plan` gives; of an implementation that is autotuned, every plan that it tries.

    Raises:
        Refused, ProblemError: as `plan` does.
    """
    planned = plan(problem, gpu, schedule, implementation, options)
    tried = IMPLEMENTATIONS[implementation].candidates if implementation else None
    options = options or Options()
    if tried is None or options.tile is not None:
        return (planned,)
    found = (p for p in tried(problem, gpu, options) if overflow(p, gpu) is None)
    return tuple(_accumulated(p, problem, options) for p in found)


def _accumulated(planned: Plan, problem: Attention, options: Options) -> Plan:
    """A plan, at the end of which gradients are added to earlier ones where that was asked."""
    if not options.accumulates_grads:
        return planned
    return replace(planned, kernels=(*planned.kernels, *accumulated_gradients.kernels(problem)))
