"""The command line: parses, calls a verb, prints.

Every command takes `--json`: then stdout is one strict JSON document, and progress and notes
go to stderr. Exit status: 0 done, 1 a cross-check disagreed, 2 bad input.
"""

from __future__ import annotations

import gc
import sys

from fasim.cli.application import app

# isort: off
# Each registers its commands; the help lists them in this order.
from fasim.cli import attention, operators, validation, kernels, kv_cache  # noqa: F401
from fasim.cli import catalogue, profiles, study  # noqa: F401
# isort: on


# New objects between two looks for unreachable cycles, of which a command makes few: at Python's
# 700 these looks take a twelfth of a prediction's time.
COLLECTED_OBJECTS = 50_000


def main() -> None:
    """The `fasim` command. Bad input is a line on stderr and exit status 2, never a traceback."""
    gc.set_threshold(COLLECTED_OBJECTS)
    try:
        app(prog_name="fasim")
    except _input_errors() as fault:
        print(fault, file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:
        raise SystemExit(0) from None


def _input_errors() -> tuple[type[Exception], ...]:
    from fasim.problem import ProblemError

    errors: list[type[Exception]] = [ProblemError]
    # Only what was imported can have been raised.
    for module, name in (
        ("fasim.hardware", "ProfileError"),
        ("fasim.schedules.plan", "Refused"),
        ("fasim.verbs.measured.measurements", "MeasurementError"),
        ("fasim.verbs.measured.csv_table", "TableError"),
        ("fasim.simulator.mechanisms", "UnknownMechanism"),
        ("fasim.verbs.machine.gpu_query", "NoGpu"),
        ("fasim.verbs.kernels.validate_kernels", "KernelsUnavailable"),
    ):
        if module in sys.modules:
            errors.append(getattr(sys.modules[module], name))
    return (*errors, OSError)
