"""The SM engine on the instruction stream of a kernel whose rate is known."""

from __future__ import annotations

from itertools import count

import pytest

from fasim.simulator.sm_engine import steady_rate, trace
from fasim.simulator.stream import PIPES, Item, Stream


def flash2_forward_a100(mma: int = 4, scores: int = 2, loads: int = 1) -> tuple[Stream, ...]:
    """FlashAttention-2 forward, head_dim 128, tile 128×64, 4 warps, on an A100.

    One warp's iteration per scheduler: 32 rows, so 128 HMMA for S = QKᵀ and 128 for O += PV, 80
    LDSM.x4, 64 scores a thread. Totals in cycles: tensor 2048, SFU 544, FP32 536, ALU 296.

    Args:
        mma: HMMA in an item.
        scores: scores of a thread whose exp is one item.
        loads: LDSM in an item.
    """
    items: list[Item] = []

    def add(pipe: str, number: int, each: int, latency: int, needs: list[int], name: str) -> int:
        cause = "l2" if name.startswith("copy") else pipe
        sources = tuple((index, 0) for index in sorted(set(needs)))
        items.append(Item(pipe, number, number * each, latency, sources, cause=cause, name=name))
        return len(items) - 1

    def matmul(name: str, steps: int, a: int, b: int, each: int, first: list[int]) -> list[int]:
        """Steps of `each` HMMA on `a` + `b` fragments; the next step's loads go in between."""
        groups = each // mma
        fragments: dict[tuple[int, int], int] = {}

        def load(step: int, begin: int) -> None:
            size = min(loads, a + b - begin)
            item = add("shared_memory", size, 16, 29, [], f"LDSM {name}")
            fragments.update({(step, n): item for n in range(begin, begin + size)})

        for begin in range(0, a + b, loads):
            load(0, begin)
        sums: list[int] = []
        for step in range(steps):
            pending = list(range(0, a + b, loads)) if step + 1 < steps else []
            for group in range(groups):
                share = -(-len(pending) // max(groups - group - 1, 1))
                for begin in pending[:share]:
                    load(step + 1, begin)
                del pending[:share]
                columns = range(a + group * b // groups, a - (-(group + 1) * b // groups))
                needs = [fragments[step, n] for n in (*range(a), *columns)]
                needs += first if step == 0 else [sums[-groups]]
                sums.append(add("tensor", mma, 8, 16, needs, name))
        return sums[-groups:]

    def arrive(copied: int | None) -> None:
        items.append(Item("wait", 1, 1, needs=() if copied is None else ((copied, 0),)))
        items.append(Item("barrier", 1, 1))

    arrive(None)  # K, which the iteration before copied: set below
    copy_v = add("shared_memory", 8, 16, 500, [], "copy V")
    s = matmul("QK", steps=8, a=2, b=4, each=16, first=[])
    arrive(copy_v)
    copy_k = add("shared_memory", 8, 16, 500, [], "copy K")
    items[0] = Item("wait", 1, 1, needs=((copy_k, 1),))

    row_max = [add("alu", 4, 2, 4, [s[n * len(s) // 16]], "max") for n in range(16)][-1]
    for _ in range(2):
        shuffle = add("shared_memory", 4, 8, 24, [row_max], "shuffle")
        row_max = add("alu", 4, 2, 4, [shuffle], "max")
    scaled = add("fp32", 4, 2, 4, [row_max], "scale max")
    correction = add("sfu", 4, 8, 20, [scaled], "correction")
    add("fp32", 8, 2, 4, [correction], "row sum")

    steps = 64 // scores
    scale, exp, p = [0] * steps, [0] * steps, [0] * steps
    rescale = 0
    for n in range(steps + 2):  # two steps deep, so that exp does not block the adds behind it
        if n < steps:
            scale[n] = add("fp32", scores, 2, 4, [row_max, scaled], "scale")
        if 1 <= n <= steps:
            exp[n - 1] = add("sfu", scores, 8, 20, [scale[n - 1]], "exp")
        if n < steps:
            rescale = add("fp32", 128 // steps, 2, 4, [correction], "rescale O")
            index = (n + 1) * 44 // steps - n * 44 // steps
            if index:
                add("alu", index, 2, 4, [], "index")
        if n >= 2:
            add("fp32", scores, 2, 4, [exp[n - 2]], "row sum")
            p[n - 2] = add("alu", scores // 2, 2, 4, [exp[n - 2]], "to fp16")
    matmul("PV", steps=4, a=0, b=8, each=32, first=[*p[-2:], rescale])
    return (Stream(tuple(items)),)


def test_the_kernel_has_the_counts_of_its_binary() -> None:
    totals: dict[str, int] = dict.fromkeys(PIPES, 0)
    for item in flash2_forward_a100()[0].items:
        totals[item.pipe] += item.cycles
    assert (totals["tensor"], totals["sfu"], totals["alu"]) == (2048, 544, 296)
    assert totals["fp32"] == pytest.approx(554, rel=0.04)
    assert totals["shared_memory"] == pytest.approx(1672, rel=0.05)


@pytest.mark.parametrize("mma", [2, 4, 8])
@pytest.mark.parametrize("scores", [2, 4])
def test_the_rate_of_flash_attention_2_on_a100(mma: int, scores: int) -> None:
    """3619 cycles alone and 5335 for two blocks, of which the tensor pipe works 77 %."""
    stream = flash2_forward_a100(mma, scores)
    alone = steady_rate(stream, 1, barrier_cycles=30)
    pair = steady_rate(stream, 2, barrier_cycles=30)
    assert alone.cycles == pytest.approx(3619, rel=0.15)
    assert pair.cycles == pytest.approx(5335, rel=0.15)
    assert pair.utilisation["tensor"] == pytest.approx(0.77, abs=0.1)
    assert pair.charges["tensor"] > 2048


def test_the_rate_is_reached_within_the_window() -> None:
    """Ten times the iterations move T(2) by no more than the seeds do."""
    stream = flash2_forward_a100()
    events = [e for e in trace(stream, 2, barrier_cycles=30, iterations=40) if e.item == "wait"]
    starts = [e.issued for e in events if e.block == 0][::2]
    long_run = (starts[-1] - starts[2]) / (len(starts) - 3)
    assert steady_rate(stream, 2, barrier_cycles=30).cycles == pytest.approx(long_run, rel=0.02)


def test_speed(benchmark) -> None:  # type: ignore[no-untyped-def]
    """About 300 items, two warps, three seeds: 25 ms."""
    stream = flash2_forward_a100(mma=4, scores=4)
    assert 250 < len(stream[0].items) < 300
    barrier_cycles = count(30)  # no two alike, so that nothing is cached
    benchmark(lambda: steady_rate(stream, 2, barrier_cycles=next(barrier_cycles)))
