"""Blocks an SM holds by the estimate of registers, against those by the registers of binaries.

`compiled_registers.csv` was read with cuobjdump from the libraries that its `source` names; for
xFormers' CUTLASS kernels it names their code. A range is of several instantiations: masks,
alignments, numbers of splits. Rows of `flash2` are of the path for older GPUs in FlashAttention-3's
package, whose tiles are in no table of fasim: no constant was chosen beside them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fasim.hardware import Gpu, load
from fasim.problem import Attention
from fasim.schedules import catalog
from fasim.schedules.language import Kernel
from fasim.schedules.plan import Options
from fasim.schedules.record import record
from fasim.schedules.residency import BlockUse, block_use, residency

FACTS = Path(__file__).with_name("compiled_registers.csv")
MASKS = {"none": ("none",), "causal": ("causal",), "local": ("local",), "any": ("none", "causal")}
DROPOUT = {"no": (0.0,), "yes": (0.1,), "any": (0.0, 0.1)}
LEAST_AGREEMENT = 0.95


@dataclass(frozen=True)
class Compiled:
    """A row: a kernel of an implementation, or of several GPUs and masks that share a tile."""

    fields: dict[str, str]

    def __str__(self) -> str:
        names = ("implementation", "kernel", "head_dim", "dtype", "mask", "dropout", "gpus")
        return "-".join(self.fields[name] for name in names)

    @property
    def registers(self) -> tuple[int, int]:
        return int(self.fields["registers_low"]), int(self.fields["registers_high"])

    def kernels(self) -> Iterator[tuple[Kernel, Gpu]]:
        """The kernel on each GPU, with each mask and dropout that the row is about."""
        for name in self.fields["gpus"].split():
            gpu = load(name).gpu
            for mask in MASKS[self.fields["mask"]]:
                for dropout in DROPOUT[self.fields["dropout"]]:
                    yield self._kernel(gpu, mask, dropout), gpu

    def _kernel(self, gpu: Gpu, mask: str, dropout: float) -> Kernel:
        forward = not any(
            word in self.fields["kernel"] for word in ("backward", "preprocess", "convert")
        )
        problem = Attention(
            1,
            1,
            1024,
            1024,
            int(self.fields["head_dim"]),
            dtype=self.fields["dtype"],  # type: ignore[arg-type]
            causal=mask == "causal",
            window=(128, 0) if mask == "local" else None,
            dropout=dropout,
            direction="forward" if forward else "backward",
        )
        implementation = self.fields["implementation"]
        if implementation == "flash2":
            options = Options(self.tile, warps=int(self.fields["threads"]) // 32)
            plan = catalog.plan(problem, gpu, "flash2", options=options)
        else:
            options = Options()
            if implementation == "flash-attn-2" and forward and not dropout:
                splits = 4 if self.fields["kernel"] in ("split_kv", "combine") else 1
                options = Options(num_splits=splits)
            plan = catalog.plan(problem, gpu, implementation=implementation, options=options)
        return next(k for k in plan.kernels if k.name == self.fields["kernel"])

    @property
    def tile(self) -> tuple[int, int] | None:
        rows, columns = self.fields["tile_m"], self.fields["tile_n"]
        return (int(rows), int(columns)) if rows else None


def facts() -> list[Compiled]:
    with FACTS.open(encoding="utf-8", newline="") as file:
        return [Compiled(row) for row in csv.DictReader(file)]


def use_of(kernel: Kernel, registers: int | None = None) -> BlockUse:
    """What a block takes if compiled to so many registers; by the estimate without a number."""
    mapping = replace(kernel.mapping, registers_per_thread=registers)
    return block_use(record(replace(kernel, mapping=mapping)))


def agrees(row: Compiled) -> bool:
    low, high = row.registers
    for kernel, gpu in row.kernels():
        held = [residency(use_of(kernel, n), gpu).blocks_per_sm for n in (high, None, low)]
        if held != sorted(held):
            return False
    return True


@pytest.mark.parametrize("row", facts(), ids=str)
def test_the_kernel_of_a_row_is_the_one_that_fasim_has(row: Compiled) -> None:
    for kernel, _ in row.kernels():
        assert kernel.mapping.threads == int(row.fields["threads"])
        if row.tile:
            assert (kernel.tiles["q"], kernel.tiles["k"]) == row.tile


def test_estimated_registers_give_the_compiled_kernels_blocks() -> None:
    rows = facts()
    missed = [row for row in rows if not agrees(row)]
    assert 1 - len(missed) / len(rows) >= LEAST_AGREEMENT, [str(row) for row in missed]
    # FlashAttention-2's combining kernel takes 52 to 72, with LSEs of up to 128 splits.
    assert {row.fields["kernel"] for row in missed} == {"combine"}


def test_a_block_gets_no_more_registers_than_there_are() -> None:
    """FlashAttention-3: 65,536 registers over 384 threads and over 512, in eights."""
    hopper = [row for row in facts() if row.fields["implementation"] == "flash-attn-3"]
    for row in hopper:
        for kernel, _ in row.kernels():
            share = {384: 168, 512: 128}[kernel.mapping.threads]
            assert use_of(kernel).registers_per_thread <= share


def test_launch_bounds_take_registers_from_a_thread() -> None:
    """xFormers' forward: 16 warps an SM, and so 128 registers, of 152 by accumulators."""
    problem = Attention(1, 1, 1024, 1024, 64)
    (kernel,) = catalog.plan(problem, load("a100").gpu, implementation="xformers-cutlass").kernels
    assert use_of(kernel).registers_per_thread == 128
    unbound = replace(kernel, mapping=replace(kernel.mapping, least_blocks=1))
    assert use_of(unbound).registers_per_thread == 152


def test_a_streaming_loop_holds_what_it_carries() -> None:
    """Combining splits, 8 rows of 64 over 128 threads: O and its part, 4 each, sum and maximum."""
    problem = Attention(1, 1, 1024, 1024, 64)
    gpu = load("a100").gpu
    options = Options(num_splits=4)
    combine = catalog.plan(problem, gpu, implementation="flash-attn-2", options=options).kernels[1]
    assert use_of(combine).registers_per_thread == -(-(24 + 4 + 4 + 1 + 1) // 8) * 8
