"""A suite: its jobs in order, each one's rows written before the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from gpu_kernels.measure import attention_cases, attention_jobs, counters, device_facts, probes
from gpu_kernels.measure.bench import Bench, Job, LeftOut
from gpu_kernels.measure.device import DeviceLost
from gpu_kernels.measure.environment import Environment
from gpu_kernels.measure.row_file import Row, RowFile

Log = Callable[[str], None]


def jobs(suite: str, environment: Environment) -> Iterator[Job]:
    """Device facts, attention, counters; in the full suite the probes too."""
    attention = (attention_jobs.jobs(case, environment) for case in attention_cases.SUITES[suite]())
    yield from device_facts.jobs(suite, environment)
    yield from chain.from_iterable(attention)
    if suite == "full":
        yield from probes.jobs(environment)
    yield from counters.jobs(suite, environment)


def run(todo: Iterable[Job], bench: Bench, file: RowFile, log: Log) -> int:
    """Runs jobs whose rows the file lacks; how many were left out.

    A job that fails is left out with a line of the reason.

    Raises:
        DeviceLost: the GPU answers no more; rows until then are in the file.
    """
    todo = list(todo)
    count, done, left_out = sum(len(job.ids) for job in todo), 0, 0
    for job in todo:
        wanted = frozenset(row_id for row_id in job.ids if row_id not in file)
        done += len(job.ids)
        if not wanted:
            continue
        try:
            for row in job.run(bench, wanted):
                if row["id"] in wanted:
                    file.add(row)
                    log(f"[{done}/{count}] {said(row)}")
        except DeviceLost:
            raise
        except Exception as fault:
            left_out += 1
            log(f"[{done}/{count}] left out: {job.ids[0]}: {reason(fault)}")
            bench.device.synchronize()
            if job.failed is not None and not harmless(fault):
                row = {**job.failed(bench), "notes": reason(fault)}
                if row["id"] in wanted and row["id"] not in file:
                    file.add(row)
        bench.device.release()
    return left_out


def harmless(fault: Exception) -> bool:
    """Whether a failure says nothing about a kernel: no memory, or nothing to measure with."""
    return isinstance(fault, LeftOut) or type(fault).__name__ == "OutOfMemoryError"


def reason(fault: Exception) -> str:
    """An exception in a line."""
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    text = lines[0] if lines else "no reason given"
    return text if isinstance(fault, LeftOut) else f"{type(fault).__name__}: {text}"


def said(row: Row) -> str:
    """A row in a line."""
    if row.get("time_ms"):
        value = f"{row['time_ms']} ms"
    elif row.get("hbm_gb"):
        value = f"{row['hbm_gb']} GB of DRAM"
    else:
        value = f"{row.get('value', '')} {row.get('metric', '')}"
    wrong = "  WRONG OUTPUT" if row.get("output_ok") == "false" else ""
    return f"{row['id']}  {value}{wrong}"
