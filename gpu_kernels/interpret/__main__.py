"""`python -m gpu_kernels.interpret`: interprets the cases, prints what they gave.

Needs TRITON_INTERPRET=1 in the environment: triton decides when it is loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """1 if an output is wrong, else 0; the bytes are for the caller to judge."""
    parser = argparse.ArgumentParser(prog="python -m gpu_kernels.interpret", description=__doc__)
    parser.add_argument("--cases", choices=("quick", "full"), default="quick")
    parser.add_argument("--only", action="append", help="a kernel to run, instead of all")
    parser.add_argument("--json", action="store_true", help="one document instead of lines")
    asked = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET") != "1":
        parser.error("set TRITON_INTERPRET=1, so that triton interprets kernels")
    warnings.simplefilter("ignore")  # 0/0 in masked lanes, and triton's own notices

    import torch
    import triton

    from gpu_kernels.interpret import cases, runs

    torch.set_num_threads(1)
    chosen = cases.quick() if asked.cases == "quick" else cases.full()
    outcomes = []
    for case in chosen:
        if asked.only and case.kernel not in asked.only:
            continue
        outcome = runs.run(case)
        outcomes.append(outcome)
        if not asked.json:
            right = all(output.right for output in outcome.outputs.values())
            moved = sum(
                access.read + access.write + access.reduce
                for launch in outcome.launches
                for access in launch.accesses.values()
            )
            print(f"{'ok   ' if right else 'WRONG'} {moved:>10} B  {case}", flush=True)
    if asked.json:
        versions = {"torch": torch.__version__, "triton": triton.__version__}
        found = [outcome.to_dict() for outcome in outcomes]
        json.dump({"versions": versions, "cases": found}, sys.stdout)
    wrong = any(not output.right for each in outcomes for output in each.outputs.values())
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
