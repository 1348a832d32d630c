"""xFormers' kernels: Q read at every step, O in global memory for wide heads; tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fasim.hardware import Gpu, load
from fasim.problem import Attention
from fasim.readings import numerics, reference
from fasim.readings.traffic import traffic
from fasim.schedules import catalog
from fasim.schedules.plan import Refused
from fasim.schedules.record import record
from fasim.schedules.residency import block_use, residency

NAME = "xformers-cutlass"


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("head_dim", [40, 128, 160])
def test_forward_bytes(a100: Gpu, head_dim: int, causal: bool, dropout: float) -> None:
    """Each row tile walks the key tiles it sees: Q with every one, O_accum between them.

    Dropout moves nothing.
    """
    problem = Attention(1, 4, 150, 200, head_dim, kv_heads=2, causal=causal, dropout=dropout)
    plan = catalog.plan(problem, a100, implementation=NAME)
    tile_m, tile_n = plan.tile
    row = 2 * head_dim
    q_read = k_read = again = 0
    for start in range(0, 150, tile_m):
        rows = min(tile_m, 150 - start)
        # The last row sees all 200 keys, each before it one fewer.
        seen = min(200, start + rows + 50) if causal else 200
        steps = -(-seen // tile_n)
        q_read += rows * steps
        again += rows * (steps - 1)
        k_read += min(steps * tile_n, 200)
    expected = {
        "Q": (4 * q_read * row, 0),
        "K": (4 * k_read * row, 0),
        "V": (4 * k_read * row, 0),
        "O": (0, 4 * 150 * row),
        "LSE": (0, 4 * 150 * 4),
    }
    if head_dim > 128 and again:
        expected["O_accum"] = (4 * again * 2 * row, 4 * again * 2 * row)
    (exact,) = traffic(plan.kernels).kernels
    run = numerics.run(plan.kernels, numerics.random_inputs(problem))
    for level in (exact.global_, run.kernels[0]):
        moved = {n: (a.read_bytes, a.write_bytes) for n, a in level.items() if a.total_bytes}
        assert moved == expected


@pytest.mark.parametrize("head_dim", [64, 160])
def test_a_window_is_of_a_causal_mask(a100: Gpu, head_dim: int) -> None:
    """A row and 69 keys before it: of row tiles of 64 or 32, what their first and last see."""
    problem = Attention(1, 2, 300, 300, head_dim, window=(69, 0), direction="both")
    kernels = catalog.plan(problem, a100, implementation=NAME).kernels
    rows, columns = (kernels[0].tiles[axis] for axis in ("q", "k"))
    walked = 0
    for start in range(0, 300, rows):
        first = max(0, start - 69) // columns * columns
        end = -(-min(start + rows, 300) // columns) * columns
        walked += min(end, 300) - first
    inputs = numerics.random_inputs(problem)
    run, exact = numerics.run(kernels, inputs), traffic(kernels).kernels
    for kernel, level in zip(exact, run.kernels, strict=True):
        assert {n: a for n, a in kernel.global_.items() if a.total_bytes} == level
    assert exact[0].global_["K"].read_bytes == 2 * walked * 2 * head_dim
    arguments = (problem, *(inputs[name] for name in ("Q", "K", "V", "dO")))
    right = dict(zip(("dQ", "dK", "dV"), reference.gradients(*arguments), strict=True))
    right["O"], _ = reference.attention(*arguments[:4])
    for name, truth in right.items():
        assert np.abs(run.tensors[name] - truth).max() < 2**-8 * np.abs(truth).max(), name


@pytest.mark.parametrize(
    ("gpu", "head_dim", "direction", "tile", "warps", "blocks"),
    [
        ("a100", 64, "forward", (64, 64), 4, 4),
        ("a100", 128, "forward", (64, 128), 8, 2),
        ("h100", 256, "forward", (32, 128), 4, 4),
        ("a100", 64, "backward", (64, 64), 4, 2),
        ("a100", 128, "backward", (128, 128), 16, 1),
        ("rtx4090", 96, "backward", (128, 64), 8, 1),
        ("rtx4090", 128, "backward", (64, 64), 4, 2),
        ("a100", 256, "backward", (128, 64), 8, 1),
    ],
)
def test_tables(
    gpu: str, head_dim: int, direction: str, tile: tuple[int, int], warps: int, blocks: int
) -> None:
    problem = Attention(1, 8, 1024, 1024, head_dim, direction=direction)
    plan = catalog.plan(problem, load(gpu).gpu, implementation=NAME)
    main = next(kernel for kernel in plan.kernels if kernel.mapping.matrix_unit != "none")
    assert (plan.tile, main.mapping.warps) == (tile, warps)
    assert residency(block_use(record(main)), load(gpu).gpu).blocks_per_sm == blocks


def test_what_it_does_not_take(a100: Gpu) -> None:
    problem = Attention(1, 1, 64, 64, 64)
    for refused, message in (
        (replace(problem, dtype="fp32"), "it takes fp16 and bf16, not fp32"),
        (replace(problem, head_dim=60), "head_dim up to 256 in eights, not 60"),
        (replace(problem, seqlen_q=80, causal=True), "no more queries than keys"),
        (replace(problem, window=(9, 4)), "its window ends at a query's own key.* right 0, not 4"),
        (replace(problem, window=(9, -1)), "it takes right 0, not -1"),
    ):
        with pytest.raises(Refused, match=message):
            catalog.plan(refused, a100, implementation=NAME)
