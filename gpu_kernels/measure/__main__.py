"""`python -m gpu_kernels.measure`: measures the GPU of this machine."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from gpu_kernels.measure.row_file import RowFile, RowFileError

DONE, WRONG_OUTPUT, BAD_INPUT, STOPPED, INTERRUPTED = 0, 1, 2, 3, 130
SUITES = ("quick", "full")

EXAMPLES = """\
examples:
  python -m gpu_kernels.measure --suite quick --out h200.csv
      device facts, and attention at the shapes that tell most: some minutes
  python -m gpu_kernels.measure --suite full --out h200.csv
      all published shapes, counters and probes; goes on where it was stopped
  fasim validate --measured h200.csv
      predictions beside what was measured
  fasim profiles detect --measured h200.csv --out my-gpu.yaml
      a profile with the measured device facts

exit status: 0 done, 1 done and an output was wrong, 2 bad input, no torch or no GPU;
3 and 130: stopped; what was measured is in FILE, run again to go on
"""


class Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}; see --help\n")


def parser() -> Parser:
    found = Parser(
        prog="python -m gpu_kernels.measure",
        description=textwrap.dedent(
            """\
            Measures the GPU of this machine: device facts, our kernels' outputs and times,
            PyTorch's backends in the same run, counters where Nsight Compute works."""
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--suite", choices=SUITES, default="quick", help="quick unless given")
    found.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="CSV; rows are added to it"
    )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    asked = parser().parse_args(arguments)
    missing = [name for name in ("torch", "triton") if find_spec(name) is None]
    if missing:
        return fail(f"{' and '.join(missing)} not installed; pip install 'fasim[gpu]'")
    import torch

    if not torch.cuda.is_available():
        return fail("no GPU: torch sees none (its CUDA build and a driver are needed)")
    try:
        with RowFile(asked.out) as file:
            return measure(asked.suite, file)
    except RowFileError as fault:
        return fail(str(fault))
    except KeyboardInterrupt:
        log(f"stopped; what was measured is in {asked.out}: run again to go on")
        return INTERRUPTED


def measure(suite: str, file: RowFile) -> int:
    """Runs a suite into an open file; prints how our kernels compare."""
    from gpu_kernels.measure import comparison
    from gpu_kernels.measure import suite as suites
    from gpu_kernels.measure.bench import Bench
    from gpu_kernels.measure.device import Device, DeviceLost
    from gpu_kernels.measure.environment import find_environment
    from gpu_kernels.measure.rows import RowMaker
    from gpu_kernels.measure.telemetry import Telemetry, find_source
    from gpu_kernels.measure.timing import Timer

    environment = find_environment()
    log(f"{environment.device} ({environment.gpu}): {environment.software}")
    device = Device(environment)
    with Telemetry(find_source(environment.uuid)) as telemetry:
        rows = RowMaker(environment, telemetry, suite)
        bench = Bench(device, Timer(device), telemetry, rows, file.path)
        try:
            left_out = suites.run(suites.jobs(suite, environment), bench, file, log)
        except DeviceLost as fault:
            log(f"stopped: {fault}; what was measured is in {file.path}: run again to go on")
            return STOPPED
    print(comparison.table(file.rows))
    wrong = [row["id"] for row in file.rows if row["output_ok"] == "false"]
    log(f"{len(file.rows)} rows in {file.path}; left out: {left_out}; wrong outputs: {len(wrong)}")
    return WRONG_OUTPUT if wrong else DONE


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def fail(reason: str) -> int:
    log(f"python -m gpu_kernels.measure: {reason}")
    return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
