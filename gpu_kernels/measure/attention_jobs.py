"""Attention: each output checked, then timed."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fasim.problem import Attention
from fasim.schedules.implementations.gpu_kernels_decode import num_splits
from gpu_kernels import judge
from gpu_kernels.judge import Output
from gpu_kernels.measure.attention_cases import AttentionCase
from gpu_kernels.measure.bench import Bench, Job
from gpu_kernels.measure.environment import Environment
from gpu_kernels.measure.implementations import (
    BY_NAME,
    SPLIT_KV,
    Implementation,
    Operands,
    operands,
    schedule_of,
)
from gpu_kernels.measure.row_file import Row
from gpu_kernels.measure.rows import attention_id

Tensor = torch.Tensor
TOO_LARGE_TO_CHECK = "no memory for the reference"


def jobs(case: AttentionCase, environment: Environment) -> Iterator[Job]:
    """A job for each implementation: a row for each way to launch."""
    for name in case.implementations:
        yield _job(case, BY_NAME[name], environment)


def _job(case: AttentionCase, implementation: Implementation, environment: Environment) -> Job:
    problem, gpu = case.problem, environment.gpu
    schedule = schedule_of(implementation, environment.architecture)
    states = {
        attention_id(gpu, implementation.name, problem, launch, l2): (launch, l2)
        for launch, l2 in case.states_of(implementation.name)
    }

    def run(bench: Bench, wanted: frozenset[str]) -> Iterator[Row]:
        given = operands(bench.device, problem)
        with implementation.prepare(problem, given) as call:
            cells = _notes(implementation, problem, environment)
            if implementation.own:
                cells |= checked(problem, given, call())
            for row_id, (launch, l2) in states.items():
                if row_id in wanted:
                    timing = bench.timer.time(call, launch, l2)
                    yield bench.rows.attention(
                        row_id, implementation.name, schedule, problem, launch, l2, timing, **cells
                    )

    def failed(bench: Bench) -> Row:
        row_id, (launch, l2) = next(iter(states.items()))
        return bench.rows.attention(
            row_id,
            implementation.name,
            schedule,
            problem,
            launch,
            l2,
            output_ok="false",
            notes="the kernel did not run",
        )

    return Job(tuple(states), run, failed if implementation.own else None)


def _notes(
    implementation: Implementation, problem: Attention, environment: Environment
) -> dict[str, str]:
    if implementation is not SPLIT_KV:
        return {}
    return {"notes": f"num_splits {num_splits(problem, environment.sm_count)}"}


def checked(problem: Attention, given: Operands, outputs: tuple[Tensor, ...]) -> dict[str, str]:
    """`output_ok`, and in `notes` what is wrong; empty where the reference does not fit."""
    try:
        found = [
            output for part in parts(problem) for output in judged(problem, given, outputs, part)
        ]
    except torch.OutOfMemoryError:
        return {"notes": TOO_LARGE_TO_CHECK}
    wrong = [
        f"{name} errs {output.error:.3g}, allowed {output.tolerance:.3g}"
        for name, output in found
        if not output.right
    ]
    return {"output_ok": "false", "notes": "; ".join(wrong)} if wrong else {"output_ok": "true"}


def parts(problem: Attention) -> list[tuple[int, int]]:
    """(batch, key/value head) that are checked: the first and the last. A wrong stride shows in
    either, and float64 scores of every head would not fit."""
    return sorted({(0, 0), (problem.batch - 1, problem.kv_heads - 1)})


def judged(
    problem: Attention, given: Operands, outputs: tuple[Tensor, ...], part: tuple[int, int]
) -> list[tuple[str, Output]]:
    """Outputs of one key/value head and the query heads that share it, beside the reference."""

    def of_part(tensor: Tensor) -> Tensor:
        batch, kv_head = part
        heads = tensor.shape[1] // problem.kv_heads
        return tensor[batch : batch + 1, kv_head * heads : (kv_head + 1) * heads]

    inputs = tuple(of_part(tensor) for tensor in given.all())
    mine = tuple(of_part(tensor) for tensor in outputs)
    if problem.direction == "forward":
        found = judge.forward(inputs, *mine, causal=problem.causal)
    else:
        found = judge.gradients(inputs, mine, causal=problem.causal)
    return list(found.items())
