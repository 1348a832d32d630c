"""What a prediction costs: cached, for a new GPU or tile, and as a cold command.

Times are of the CPU, on which one prediction runs: what else the machine does hardly counts.
"""

from __future__ import annotations

import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

import fasim
from fasim.hardware import shipped
from fasim.operators import Operator, gemm
from fasim.simulator import simulate as simulator
from fasim.simulator import sm_engine
from fasim.verbs.predict_op import predict_op

PAIRS = 50
CACHED_S, NEW_S, MEMORY_MB, COLD_S = 0.100, 0.400, 200, 0.9


@dataclass(frozen=True)
class Case:
    gpu: str
    schedule: str
    problem: fasim.Attention

    def predict(self) -> fasim.Prediction:
        return fasim.predict(self.problem, fasim.load(self.gpu), schedule=self.schedule)


def cases(seed: int) -> list[Case]:
    """Random pairs that are not refused; batch × heads up to 1024, N up to 65,536."""
    choose = random.Random(seed)
    found: list[Case] = []
    while len(found) < PAIRS:
        length = choose.choice([128, 300, 1024, 2000, 4096, 8192, 16384, 65536])
        problem = fasim.Attention(
            batch=choose.choice([1, 2, 4, 8, 16, 32]),
            heads=choose.choice([1, 4, 8, 16, 32]),
            seqlen_q=length,
            seqlen_k=length,
            head_dim=choose.choice([32, 64, 96, 128, 256]),
            causal=choose.random() < 0.5,
        )
        gpu, schedule = (
            choose.choice(list(shipped())),
            choose.choice(["standard", "flash1", "flash2"]),
        )
        case = Case(gpu, schedule, problem)
        try:
            case.predict()
        except fasim.Refused:
            continue
        found.append(case)
    return found


@dataclass(frozen=True)
class Product:
    """A GEMM alone, of which cuBLAS may run up to 30 kernels."""

    gpu: str
    operator: Operator

    def predict(self) -> fasim.Prediction:
        return predict_op(self.operator, fasim.load(self.gpu)).prediction


# Few tiles and many, short loops and long, split and not, aligned as TMA asks and not.
PRODUCTS = [
    Product(gpu, gemm(*sizes, dtype=dtype))
    for gpu in ("a100", "h100", "l40s", "rtx4090")
    for *sizes, dtype in (
        (4096, 4096, 4096, 1, "fp16"),
        (2048, 2048, 128, 192, "bf16"),
        (128, 4096, 4096, 1, "fp16"),
        (8192, 1024, 333, 1, "fp16"),
        (512, 512, 16384, 1, "fp16"),
        (1000, 3000, 5000, 3, "tf32"),
        (256, 12288, 4096, 1, "bf16"),
    )
]


def timed(case: Case | Product) -> float:
    simulator._simulated_once.cache_clear()  # or the second time costs nothing
    start = time.process_time()
    case.predict()
    return time.process_time() - start


def timed_new(case: Case | Product) -> float:
    sm_engine._steady_rate.cache_clear()
    return timed(case)


@pytest.mark.parametrize("seed", [0, 5])
def test_fifty_random_pairs(benchmark: object, seed: int) -> None:
    found = cases(seed)
    new = {case: timed_new(case) for case in found}
    cached = {case: min(timed(case), timed(case)) for case in found}
    events = {
        case: sum(k.result.events for k in prediction.simulation.kernels)
        for case in found
        if (prediction := case.predict()).simulation is not None
    }
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    worst = max(cached, key=lambda case: cached[case])
    late = [case for case in found if cached[case] > CACHED_S]
    print(
        f"\ncached: median {statistics.median(cached.values()) * 1e3:.0f} ms, "
        f"worst {cached[worst] * 1e3:.0f} ms ({worst}), {len(late)} of {PAIRS} over the target; "
        f"new: worst {max(new.values()) * 1e3:.0f} ms; "
        f"events: most {max(events.values())}; memory {used:.0f} MB"
    )
    assert used <= MEMORY_MB
    assert max(new.values()) <= NEW_S
    # Causal grids of 40 to 128 waves, too short to skip waves at a mean cost, take up to 0.2 s.
    assert all(case.problem.causal for case in late)
    benchmark(worst.predict)  # type: ignore[operator]


def test_products(benchmark: object) -> None:
    new = {case: min(timed_new(case), timed_new(case)) for case in PRODUCTS}
    cached = {case: min(timed(case), timed(case)) for case in PRODUCTS}
    worst = max(new, key=lambda case: new[case])
    print(
        f"\nproducts: cached: median {statistics.median(cached.values()) * 1e3:.0f} ms, "
        f"worst {max(cached.values()) * 1e3:.0f} ms; "
        f"new: median {statistics.median(new.values()) * 1e3:.0f} ms, "
        f"worst {new[worst] * 1e3:.0f} ms ({worst})"
    )
    assert new[worst] <= NEW_S
    benchmark(lambda: timed_new(worst))  # type: ignore[operator]


def test_events_are_bounded_as_batch_grows(benchmark: object) -> None:
    def events(batch: int) -> int:
        problem = fasim.Attention(batch, 16, 4096, 4096, 128, causal=True)
        prediction = fasim.predict(problem, fasim.load("h100"), schedule="flash2")
        assert prediction.simulation is not None
        return sum(kernel.result.events for kernel in prediction.simulation.kernels)

    counts = {batch: events(batch) for batch in (8, 16, 32, 64, 256, 1024)}
    print(f"\nevents by batch: {counts}")
    assert counts[1024] <= max(counts[64], counts[256]) * 1.1
    benchmark(lambda: events(64))  # type: ignore[operator]


def cpu_s_of_children(run: Callable[[], None]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def test_a_cold_command(benchmark: object) -> None:
    line = "predict --gpu a100 --schedule flash2 --batch 4 --heads 32 --seqlen 4096 --head-dim 128"
    command = [sys.executable, "-m", "fasim", *line.split()]

    def run() -> None:
        subprocess.run(command, check=True, capture_output=True)

    run()  # once, for the compiled bytecode
    taken = min(cpu_s_of_children(run) for _ in range(5))
    print(f"\ncold command: {taken:.2f} s")
    assert taken <= COLD_S
    benchmark(run)  # type: ignore[operator]
