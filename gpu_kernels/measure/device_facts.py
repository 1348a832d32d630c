"""Device facts: bandwidths, launch costs, rates of matrix products and exponentials, the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from gpu_kernels import bandwidth, exp2_rate, sweep_rate
from gpu_kernels.measure.bench import Bench, Job, LeftOut
from gpu_kernels.measure.device import Function
from gpu_kernels.measure.environment import Environment
from gpu_kernels.measure.row_file import Row
from gpu_kernels.measure.rows import device_id
from gpu_kernels.measure.timing import Timing

MIB = 2**20
DRAM_SETS = {"quick": (1024 * MIB,), "full": tuple(2**n * MIB for n in range(8, 13))}
L2_SHARES = {"quick": (1 / 8, 3 / 8), "full": (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1, 2)}
GEMM_SIZES = {"quick": (4096, 8192), "full": (1024, 2048, 4096, 8192, 16384)}
PROGRAMS_PER_SM = 4  # of eight warps: resident at once on every GPU, 64 KiB of loads under way
EMPTY_LAUNCHES = 200
CLOCK_S = 1.0

Sized = Callable[[Bench, int], tuple[Function, int]]  # (what to time, bytes it moves)


def jobs(suite: str, environment: Environment) -> Iterator[Job]:
    """The device facts of a suite."""
    largest = environment.memory_bytes // 8
    for operator, prepare in DRAM.items():
        for size in DRAM_SETS[suite]:
            if size <= largest:
                yield _bandwidth(environment, operator, size, prepare)
    for operator, prepare in L2.items():
        for share in L2_SHARES[suite]:
            size = int(environment.l2_bytes * share) // sweep_block() * sweep_block()
            yield _bandwidth(environment, operator, size, prepare)
    for launch in ("stream", "graph"):
        yield _launch(environment, launch)
    for size in GEMM_SIZES[suite]:
        for dtype in ("fp16", "bf16"):
            yield _gemm(environment, size, dtype)
    yield exp2(environment)
    yield _clock(environment)


def sweep_block() -> int:
    """Bytes of the block that sweeping kernels step by."""
    return 4 * sweep_rate.BLOCK_ELEMENTS


def _dram_read(bench: Bench, size: int) -> tuple[Function, int]:
    x = bench.device.normal("X", (size // 4,))
    return lambda: bandwidth.read(x), size


def _dram_write(bench: Bench, size: int) -> tuple[Function, int]:
    y = bench.device.normal("X", (size // 4,))
    return lambda: bandwidth.write(y), size


def _dram_copy(bench: Bench, size: int) -> tuple[Function, int]:
    x = bench.device.normal("X", (size // 8,))
    return lambda: bandwidth.copy(x), size


def programs(bench: Bench) -> int:
    """Of a kernel whose blocks are all resident at once."""
    return bench.device.environment.sm_count * PROGRAMS_PER_SM


def swept_bytes(bench: Bench) -> int:
    """What a sweeping kernel moves in one launch."""
    return programs(bench) * sweep_rate.REPEATS * sweep_block()


def _l2_read(bench: Bench, size: int) -> tuple[Function, int]:
    x = bench.device.normal("X", (size // 4,))
    return lambda: sweep_rate.read_sweep(x, programs(bench)), swept_bytes(bench)


def _l2_write(bench: Bench, size: int) -> tuple[Function, int]:
    y = bench.device.normal("X", (size // 4,))
    return lambda: sweep_rate.write_sweep(y, programs(bench)), swept_bytes(bench)


DRAM: dict[str, Sized] = {
    "DRAM read": _dram_read,
    "DRAM write": _dram_write,
    "DRAM copy": _dram_copy,
}
L2: dict[str, Sized] = {"L2 read": _l2_read, "L2 write": _l2_write}


def _bandwidth(environment: Environment, operator: str, size: int, prepare: Sized) -> Job:
    row_id = device_id(environment.gpu, operator, size)

    def run(bench: Bench, _: frozenset[str]) -> Iterator[Row]:
        function, moved = prepare(bench, size)
        timing = bench.timer.time(function)
        gbps = moved / timing.time_ms / 1e6
        yield bench.rows.device(row_id, operator, "gbps", gbps, timing, dtype="fp32", m=str(size))

    return Job((row_id,), run)


def _launch(environment: Environment, launch: str) -> Job:
    """Back to back: the GPU's own period of tiny kernels, the host ahead of it."""
    operator = f"launch {launch}"
    row_id = device_id(environment.gpu, operator)

    def run(bench: Bench, _: frozenset[str]) -> Iterator[Row]:
        x = bench.device.normal("X", (32,))
        timing = launches(bench, lambda: x.mul_(-1.0), launch)
        yield bench.rows.device(
            row_id,
            operator,
            "time_us",
            timing.time_ms * 1e3,
            timing,
            notes="a kernel of one block; period back to back",
        )

    return Job((row_id,), run)


def launches(bench: Bench, function: Function, launch: str) -> Timing:
    """The period of a tiny kernel, from many in a row."""
    if launch == "graph":
        function()
        many = bench.device.graph_of(function, EMPTY_LAUNCHES)
    else:

        def many() -> None:
            for _ in range(EMPTY_LAUNCHES):
                function()

    estimate = bench.timer.estimate(many)
    ahead = 0.0 if launch == "graph" else 2 * estimate.host_ms
    begin_s = bench.timer.clock()
    times = tuple(
        bench.device.events_ms(many, 1, head_start_ms=ahead) / EMPTY_LAUNCHES for _ in range(20)
    )
    timer = f"CUDA events around {EMPTY_LAUNCHES} kernels"
    return Timing(times, timer, begin_s, bench.timer.clock())


def _gemm(environment: Environment, size: int, dtype: str) -> Job:
    operator = "GEMM (torch.matmul)"
    row_id = device_id(environment.gpu, operator, size, dtype)

    def run(bench: Bench, _: frozenset[str]) -> Iterator[Row]:
        a, b = (bench.device.normal(name, (size, size), dtype) for name in "AB")
        timing = bench.timer.time(lambda: torch.matmul(a, b))
        sizes = dict.fromkeys("mnk", str(size))
        tflops = 2 * size**3 / timing.time_ms / 1e9
        yield bench.rows.device(row_id, operator, "tflops", tflops, timing, dtype=dtype, **sizes)

    return Job((row_id,), run)


def exp2_input(bench: Bench) -> torch.Tensor:
    """For the chain of exponentials: blocks for every SM, many times over."""
    blocks = bench.device.environment.sm_count * 64
    return bench.device.normal("X", (blocks * exp2_rate.BLOCK_ELEMENTS,)).abs()


def exp2(environment: Environment) -> Job:
    """Exponentials a second, and in the notes a clock and SM, at the clock that was sampled."""
    operator = "exp2 rate"
    row_id = device_id(environment.gpu, operator)

    def run(bench: Bench, _: frozenset[str]) -> Iterator[Row]:
        x = exp2_input(bench)
        timing = bench.timer.time(lambda: exp2_rate.exp2_chain(x))
        yield rate_row(bench, row_id, operator, x.numel() * exp2_rate.REPEATS, timing)

    return Job((row_id,), run)


def rate_row(bench: Bench, row_id: str, operator: str, operations: int, timing: Timing) -> Row:
    """A row of operations a second, 10⁹ of them."""
    per_s = operations / timing.time_ms * 1e3
    found = bench.telemetry.typical(timing.begin_s, timing.end_s)
    notes = ""
    if found is not None and found[0]:
        each = per_s / (found[0] * 1e6 * bench.device.environment.sm_count)
        notes = f"{each:.4g} a clock and SM"
    return bench.rows.device(row_id, operator, "gops", per_s / 1e9, timing, notes=notes)


def _clock(environment: Environment) -> Job:
    """The SM clock under work that power does not limit: exponentials alone."""
    row_id = device_id(environment.gpu, "SM clock")

    def run(bench: Bench, _: frozenset[str]) -> Iterator[Row]:
        x = exp2_input(bench)
        begin_s = bench.timer.clock()
        while bench.timer.clock() - begin_s < CLOCK_S:
            exp2_rate.exp2_chain(x)
            bench.device.synchronize()
        found = bench.telemetry.typical(begin_s + CLOCK_S / 2, bench.timer.clock())
        if found is None:
            raise LeftOut("neither NVML nor nvidia-smi tells the clock")
        yield bench.rows.device(
            row_id, "SM clock", "mhz", found[0], power_w=f"{found[1]:.6g}", notes="exp2 alone"
        )

    return Job((row_id,), run)
