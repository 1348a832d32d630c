"""Runs a case: the kernels on random inputs, their outputs beside the reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from gpu_kernels import (
    backward,
    bandwidth,
    decode,
    exp2_rate,
    forward,
    judge,
    reference,
    softmax,
    standard,
    sweep_rate,
    tiles,
)
from gpu_kernels.interpret.cases import Case
from gpu_kernels.interpret.counting import Launch, counted
from gpu_kernels.judge import Output
from gpu_kernels.tiles import Pick

Tensor = torch.Tensor
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
EXP2_REPEATS = 16
SWEEP_TOLERANCE = 1e-3  # of FP32 sums of 8192 normal values, in another order


@dataclass(frozen=True)
class Outcome:
    """What a case gave."""

    case: Case
    launches: list[Launch]
    outputs: dict[str, Output]

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.case.to_dict(),
            "launches": [
                {
                    "kernel": launch.kernel,
                    "tensors": {name: vars(each) for name, each in launch.accesses.items()},
                }
                for launch in self.launches
            ],
            "outputs": {name: vars(output) for name, output in self.outputs.items()},
        }


def run(case: Case) -> Outcome:
    """Interprets a case; needs TRITON_INTERPRET=1 from before triton was loaded."""
    torch.manual_seed(0)
    runner = RUNNERS.get(case.kernel, _softmax)
    with counted() as launches:
        outputs = runner(case)
    return Outcome(case, launches, outputs)


def _inputs(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Q, K, V and dO, normally distributed."""
    problem = case.problem
    assert problem is not None

    def normal(heads: int, rows: int) -> Tensor:
        shape = (problem.batch, heads, rows, problem.head_dim)
        if case.interleaved:
            shape = (problem.batch, rows, heads, problem.head_dim)
        values = torch.randn(shape).to(DTYPES[problem.dtype])
        return values.transpose(1, 2) if case.interleaved else values

    return (
        normal(problem.heads, problem.seqlen_q),
        normal(problem.kv_heads, problem.seqlen_k),
        normal(problem.kv_heads, problem.seqlen_k),
        normal(problem.heads, problem.seqlen_q),
    )


def _pick(case: Case, usual: Pick, swapped: bool = False) -> Pick:
    """The table's pick, or one with the case's tile. `swapped`: its rows are the keys."""
    if case.tile is None:
        return usual
    tile_m, tile_n = case.tile[::-1] if swapped else case.tile
    return Pick(tile_m, tile_n)


def _forward(case: Case) -> dict[str, Output]:
    problem, operands = case.problem, _inputs(case)
    q, k, v, _ = operands
    pick = None
    if case.tile is not None or case.arch != tiles.architecture(q):
        pick = _pick(case, tiles.forward(case.arch, problem.head_dim))
    o, lse = forward.forward(q, k, v, causal=problem.causal, pick=pick)
    return judge.forward(operands, o, lse, causal=problem.causal)


def _backward(case: Case) -> dict[str, Output]:
    problem, operands = case.problem, _inputs(case)
    q, k, v, do = operands
    o, lse = (
        tensor.to(dtype).contiguous()
        for tensor, dtype in zip(
            reference.attention(q.double(), k.double(), v.double(), causal=problem.causal),
            (q.dtype, torch.float32),
            strict=True,
        )
    )
    keys = _pick(case, tiles.keys(case.arch, problem.head_dim), swapped=True)
    queries = _pick(case, tiles.queries(case.arch, problem.head_dim))
    found = backward.backward(
        q, k, v, o, lse, do, causal=problem.causal, keys=keys, queries=queries
    )
    return judge.gradients(operands, found, causal=problem.causal)


def _standard(case: Case) -> dict[str, Output]:
    problem, operands = case.problem, _inputs(case)
    q, k, v, do = operands
    dropout = problem.dropout
    o, saved = standard.forward(
        q,
        k,
        v,
        causal=problem.causal,
        dropout=dropout,
        seed=problem.dropout_seed,
        tile=case.tile,
        arch=case.arch,
    )
    outputs, factors = {}, None
    if saved.dropout_mask is not None:
        kept = saved.dropout_mask.double()
        factors = kept / (1 - dropout)
        spread = math.sqrt(dropout * (1 - dropout) / kept.numel())
        share = abs(float(kept.mean()) - (1 - dropout))
        outputs["dropout_mask"] = Output(share, 5 * spread)
    outputs |= judge.forward(operands, o, causal=problem.causal, factors=factors)
    if problem.direction == "both":
        found = standard.backward(
            q, k, v, saved, do, dropout=dropout, tile=case.tile, arch=case.arch
        )
        outputs |= judge.gradients(operands, found, causal=problem.causal, factors=factors)
    return outputs


def _decode(case: Case) -> dict[str, Output]:
    problem, operands = case.problem, _inputs(case)
    q, k, v, _ = operands
    pick = _pick(case, tiles.decode())
    o, lse = decode.decode(q, k, v, causal=problem.causal, num_splits=case.num_splits, pick=pick)
    return judge.forward(operands, o, lse, causal=problem.causal)


def _softmax(case: Case) -> dict[str, Output]:
    problem = case.problem
    shape = (problem.batch, problem.heads, problem.seqlen_q, problem.seqlen_k)
    s = torch.randn(shape).to(DTYPES[problem.dtype])
    p = softmax.softmax(case.kernel, s, pick=_pick(case, tiles.softmax()))
    exact = reference.softmax(s.double())
    band = reference.band(exact, s.dtype)
    allowed = reference.tolerance(exact, exact.to(s.dtype).double(), band)
    return {"P": Output(reference.error(p, exact), allowed)}


def _copy(case: Case) -> dict[str, Output]:
    x = torch.randn(case.elements)
    return {"Y": Output(reference.error(bandwidth.copy(x), x.double()), 0.0)}


def _read(case: Case) -> dict[str, Output]:
    x = torch.randn(case.elements)
    error = abs(float(bandwidth.read(x).double().sum() - x.double().sum()))
    return {"Y": Output(error, float(x.double().abs().sum()) * 2**-23)}


def _write(case: Case) -> dict[str, Output]:
    exact = torch.arange(case.elements).double() % 4096
    return {"Y": Output(reference.error(bandwidth.write(torch.empty(case.elements)), exact), 0.0)}


def _sweep(kernel: str, elements: int) -> tuple[Tensor, Tensor]:
    """(what it gave, what it should): each program takes two of the blocks, and so each once."""
    blocks = torch.randn(elements // sweep_rate.BLOCK_ELEMENTS, sweep_rate.BLOCK_ELEMENTS)
    programs = blocks.shape[0] // 2
    place = torch.arange(sweep_rate.BLOCK_ELEMENTS).float().expand_as(blocks)
    if kernel == "read_sweep":
        exact = (blocks[:programs].double() + blocks[programs:].double()).sum(1)
        return sweep_rate.read_sweep(blocks.flatten(), programs, 2), exact
    if kernel == "write_sweep":
        return sweep_rate.write_sweep(blocks.flatten(), programs, 2), place.flatten().double()
    exact = blocks.flatten().double() + 1
    return sweep_rate.add_sweep(blocks.flatten(), programs, 2), exact


def _swept(case: Case) -> dict[str, Output]:
    found, exact = _sweep(case.kernel, case.elements)
    return {"Y": Output(reference.error(found, exact), SWEEP_TOLERANCE)}


def _exp2_rate(case: Case) -> dict[str, Output]:
    x = torch.rand(case.elements)
    exact = x.double()
    for _ in range(EXP2_REPEATS):
        exact = (-exact).exp2()
    return {"Y": Output(reference.error(exp2_rate.exp2_chain(x, EXP2_REPEATS), exact), 1e-6)}


RUNNERS = {
    "forward": _forward,
    "backward": _backward,
    "standard": _standard,
    "decode": _decode,
    "copy": _copy,
    "read": _read,
    "write": _write,
    "exp2_rate": _exp2_rate,
    "read_sweep": _swept,
    "write_sweep": _swept,
    "add_sweep": _swept,
}
