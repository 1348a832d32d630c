"""Probes of the full suite: what the model still asks of a GPU."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator

import torch

from fasim.problem import Attention
from gpu_kernels import block_order, convert_rate, sweep_rate
from gpu_kernels.measure.bench import Bench, Job, LeftOut
from gpu_kernels.measure.device import Function
from gpu_kernels.measure.device_facts import programs, rate_row, sweep_block
from gpu_kernels.measure.environment import Environment
from gpu_kernels.measure.implementations import OURS, operands
from gpu_kernels.measure.row_file import Row
from gpu_kernels.measure.rows import device_id
from gpu_kernels.measure.telemetry import Sample

ADDED_SHARES = (1 / 16, 1 / 4, 2)  # of L2: well inside, and beyond it
WAVES = 4
IDLE_S, TRACED_S = 1.0, 5.0
GEMM_SIZE = 8192
TRACED_PROBLEM = Attention(4, 16, 4096, 4096, 128, dtype="bf16")
TRACE_COLUMNS = ("gpu", "workload", "time_ms", "clock_mhz", "power_w")
ORDER_COLUMNS = ("gpu", "block", "sm", "begin_ns")


def jobs(environment: Environment) -> Iterator[Job]:
    """Atomic adds, conversions, the order of blocks, clock and power under load."""
    for share in ADDED_SHARES:
        size = int(environment.l2_bytes * share) // sweep_block() * sweep_block()
        yield _add(environment, size)
    yield _convert(environment)
    yield _order(environment)
    for workload, prepare in WORKLOADS.items():
        yield _trace(environment, workload, prepare)


def _add(environment: Environment, size: int) -> Job:
    """Atomic adds (RED) of FP32 to distinct addresses, over a working set."""
    operator = "RED rate"
    row_id = device_id(environment.gpu, operator, size)

    def run(bench: Bench, _: frozenset[str]) -> Iterator[Row]:
        y = bench.device.normal("X", (size // 4,))
        timing = bench.timer.time(lambda: sweep_rate.add_sweep(y, programs(bench)))
        added = programs(bench) * sweep_rate.REPEATS * sweep_rate.BLOCK_ELEMENTS
        row = rate_row(bench, row_id, operator, added, timing)
        yield {**row, "dtype": "fp32", "m": str(size)}

    return Job((row_id,), run)


def _convert(environment: Environment) -> Job:
    """Conversions of two FP32 values into a pair of FP16 (F2FP)."""
    operator = "F2FP rate"
    row_id = device_id(environment.gpu, operator)

    def run(bench: Bench, _: frozenset[str]) -> Iterator[Row]:
        blocks = environment.sm_count * 64
        x = bench.device.normal("X", (blocks * convert_rate.BLOCK_ELEMENTS,))
        timing = bench.timer.time(lambda: convert_rate.convert_chain(x))
        yield rate_row(bench, row_id, operator, x.numel() * convert_rate.REPEATS, timing)

    return Job((row_id,), run)


def _order(environment: Environment) -> Job:
    """The SM of every block of some waves, in a file beside; in the row, what is most telling."""
    row_id = device_id(environment.gpu, "block order")

    def run(bench: Bench, _: frozenset[str]) -> Iterator[Row]:
        count = WAVES * environment.sm_count
        block_order.block_order(count, bench.device.where)  # compiles
        bench.device.synchronize()
        sms, begins = (
            tensor.tolist() for tensor in block_order.block_order(count, bench.device.where)
        )
        first = min(begins)
        with bench.beside("blocks").open("w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(ORDER_COLUMNS)
            for block, (sm, begin) in enumerate(zip(sms, begins, strict=True)):
                lines.writerow((environment.gpu, block, sm, begin - first))
        share = len(set(sms[: environment.sm_count])) / environment.sm_count
        listed = " ".join(map(str, sms[:16]))
        yield bench.rows.device(
            row_id,
            "block order",
            "share",
            share,
            notes=f"SMs that the first {environment.sm_count} blocks are on; %smid: {listed} …",
        )

    return Job((row_id,), run)


def _gemm(bench: Bench) -> Function:
    a, b = (bench.device.normal(name, (GEMM_SIZE, GEMM_SIZE), "bf16") for name in "AB")
    return lambda: torch.matmul(a, b)


def _attention(bench: Bench) -> Function:
    with OURS.prepare(TRACED_PROBLEM, operands(bench.device, TRACED_PROBLEM)) as call:
        return call


WORKLOADS: dict[str, Callable[[Bench], Function]] = {"attention": _attention, "GEMM": _gemm}


def _trace(environment: Environment, workload: str, prepare: Callable[[Bench], Function]) -> Job:
    """Clock and power against time, from rest; the samples in a file beside."""
    clock_operator, power_operator = (f"{what} under {workload}" for what in ("clock", "power"))
    ids = tuple(device_id(environment.gpu, name) for name in (clock_operator, power_operator))

    def run(bench: Bench, _: frozenset[str]) -> Iterator[Row]:
        function = prepare(bench)
        function()
        bench.device.synchronize()
        begin_s, end_s = loaded(bench, function)
        samples = bench.telemetry.between(begin_s - IDLE_S / 2, end_s)
        last = bench.telemetry.typical(end_s - TRACED_S / 5, end_s)
        if last is None:
            raise LeftOut("neither NVML nor nvidia-smi tells clock and power")
        _keep(bench, workload, begin_s, samples)
        notes = f"the last {TRACED_S / 5:g} s of {TRACED_S:g}; all in {bench.beside('trace').name}"
        yield bench.rows.device(ids[0], clock_operator, "mhz", last[0], notes=notes)
        yield bench.rows.device(ids[1], power_operator, "watts", last[1], notes=notes)

    return Job(ids, run)


def loaded(bench: Bench, function: Function) -> tuple[float, float]:
    """Rests, then keeps the GPU busy; when the load began and ended."""
    clock = bench.timer.clock
    rested_s = clock() + IDLE_S
    while clock() < rested_s:
        bench.device.synchronize()
    begin_s = clock()
    while clock() - begin_s < TRACED_S:
        for _ in range(10):
            function()
        bench.device.synchronize()
    return begin_s, clock()


def _keep(bench: Bench, workload: str, begin_s: float, samples: list[Sample]) -> None:
    """Appends to the file of traces; times are from the beginning of the load."""
    path = bench.beside("trace")
    fresh = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        if fresh:
            lines.writerow(TRACE_COLUMNS)
        for sample in samples:
            time_ms = f"{(sample.time_s - begin_s) * 1e3:.1f}"
            gpu = bench.device.environment.gpu
            lines.writerow((gpu, workload, time_ms, sample.clock_mhz, sample.power_w))
