"""Hardware counters by Nsight Compute: bytes of DRAM and L2, and how busy each pipe was."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fasim.problem import Attention
from gpu_kernels.measure.attention_cases import STANDARD, published
from gpu_kernels.measure.bench import Bench, Job, LeftOut
from gpu_kernels.measure.environment import Environment
from gpu_kernels.measure.implementations import BY_NAME, schedule_of
from gpu_kernels.measure.one_case import arguments_of
from gpu_kernels.measure.row_file import Row
from gpu_kernels.measure.rows import attention_id, number

SECTOR_BYTES = 32
TIME = "gpu__time_duration.sum"
DRAM = ("dram__bytes_read.sum", "dram__bytes_write.sum")
# Sectors that SMs ask of L2: not those that one half of L2 asks of the other.
L2 = {
    "l2_read_gb": "lts__t_sectors_srcunit_tex_op_read.sum",
    "l2_write_gb": "lts__t_sectors_srcunit_tex_op_write.sum",
    "l2_reduce_gb": "lts__t_sectors_srcunit_tex_op_red.sum",
}
PIPE_SECTION = "ComputeWorkloadAnalysis"
PIPE = re.compile(r"sm__(?:inst_executed_)?pipe_(\w+?)(?:_cycles_active)?\.avg\.pct_of_peak_\w+")
# No setting of the GPU is changed, and nothing flushed between the kernels of a chain: one_case
# flushes before the first.
FLAGS = (
    "--csv",
    "--page=raw",
    "--print-units=base",
    "--profile-from-start=off",
    "--clock-control=none",
    "--cache-control=none",
    "--target-processes=all",
)
SECONDS = 600

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Counted:
    """What the kernels of one call did; metrics by kernel, as Nsight Compute names them."""

    kernels: tuple[Mapping[str, float], ...]

    def total(self, *metrics: str) -> float:
        """Over all kernels; one that was not read counts nothing."""
        return sum(kernel.get(metric, 0.0) for kernel in self.kernels for metric in metrics)

    def pipes(self) -> dict[str, float]:
        """Share of its peak, in percent, of each pipe of the longest kernel that was not idle."""
        longest = max(self.kernels, key=lambda kernel: kernel.get(TIME, 0.0))
        found = {
            match[1]: value
            for metric, value in longest.items()
            if (match := PIPE.fullmatch(metric)) and value >= 0.5
        }
        return dict(sorted(found.items(), key=lambda item: -item[1]))


class Profiler:
    """Nsight Compute; once it read nothing at all it is not asked again."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._works: bool | None = None

    def counted(self, implementation: str, problem: Attention, metrics: Sequence[str]) -> Counted:
        """Profiles one call.

        Raises:
            LeftOut: Nsight Compute is not here, may not read counters, or knows no such metric.
        """
        program = shutil.which("ncu")
        if program is None:
            raise LeftOut("Nsight Compute (ncu) is not installed")
        if self._works is False:
            raise LeftOut("Nsight Compute did not work before")
        module = [sys.executable, "-m", "gpu_kernels.measure.one_case"]
        case = arguments_of(implementation, problem)
        done = self._run([program, *FLAGS, *metrics, *module, *case])
        kernels = parse(done.stdout)
        if not kernels:
            self._works = bool(self._works)
            raise LeftOut(f"Nsight Compute read nothing: {_reason(done)}")
        self._works = True
        return Counted(kernels)


def cases(suite: str) -> Iterator[tuple[str, Attention]]:
    """Implementations and problems that are looked into."""
    lengths = {"quick": (4096,), "full": (1024, 4096, 16384)}[suite]
    for seqlen in lengths:
        for direction in ("forward", "backward"):
            for head_dim in (64, 128) if suite == "full" else (128,):
                shape = published(seqlen, head_dim, True, "fp16")
                problem = Attention(**{**vars(shape), "direction": direction})
                for implementation in ("gpu-kernels", "pytorch-flash", "cudnn"):
                    yield implementation, problem
                if seqlen <= 4096:
                    yield STANDARD, problem


def jobs(suite: str, environment: Environment, run: Run | None = None) -> Iterator[Job]:
    """A row each.

    Args:
        run: runs a command and captures its output; injected by tests.
    """
    profiler = Profiler(run or _run)
    for implementation, problem in cases(suite):
        yield _job(implementation, problem, environment, profiler)


def _job(
    implementation: str, problem: Attention, environment: Environment, profiler: Profiler
) -> Job:
    states = ("kernel", "cold")
    row_id = attention_id(environment.gpu, implementation, problem, *states, "counters")
    schedule = schedule_of(BY_NAME[implementation], environment.architecture)

    def job(bench: Bench, _: frozenset[str]) -> Iterator[Row]:
        bench.device.release()
        wanted = ("--metrics", ",".join((*DRAM, TIME)))
        dram = profiler.counted(implementation, problem, wanted)
        cells = {"hbm_gb": number(dram.total(*DRAM) / 1e9)}
        facts = {"kernels": str(len(dram.kernels))}
        try:
            metrics = ("--metrics", ",".join((*L2.values(), TIME)), "--section", PIPE_SECTION)
            more = profiler.counted(implementation, problem, metrics)
        except LeftOut as reason:
            cells["notes"] = f"L2 and pipes: {reason}"
        else:
            for name, metric in L2.items():
                facts[name] = number(more.total(metric) * SECTOR_BYTES / 1e9)
            facts |= {f"{pipe}_pct": f"{share:.1f}" for pipe, share in more.pipes().items()}
        cells["counters"] = " ".join(f"{name}={value}" for name, value in facts.items())
        yield bench.rows.attention(
            row_id, implementation, schedule, problem, *states, timer="Nsight Compute", **cells
        )

    return Job((row_id,), job)


def parse(printed: str) -> tuple[Mapping[str, float], ...]:
    """Numbers of each kernel, by metric, of `ncu --csv --page raw`.

    Lines before the names are ncu's own; the one after them holds units.
    """
    lines = printed.splitlines()
    begins = [index for index, line in enumerate(lines) if line.startswith('"ID"')]
    if not begins:
        return ()
    table = list(csv.reader(io.StringIO("\n".join(lines[begins[0] :]))))
    names = table[0]
    return tuple(
        {
            name: value
            for name, cell in zip(names, cells, strict=False)
            if (value := _number(cell)) is not None
        }
        for cells in table[1:]
        if cells and cells[0].isdecimal()
    )


def _number(cell: str) -> float | None:
    try:
        return float(cell.replace(",", ""))
    except ValueError:
        return None


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    errors = [line for line in said if "==ERROR==" in line]
    return (errors or said or [f"exit status {done.returncode}"])[-1].strip()


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as fault:
        return subprocess.CompletedProcess(command, 127, "", str(fault))
