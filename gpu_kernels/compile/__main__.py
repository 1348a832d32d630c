"""Compiles every kernel for the architectures asked for, and prints a line of JSON for each.

A line holds `of`, the number of lines there will be, and `compiled`, what was read, or `failed`:
kernel, arch and the compiler's reason. With `--store` it writes the main loops that are kept in
`gpu_kernels/compiled/`, and prints their files.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from gpu_kernels.catalog import variants
from gpu_kernels.compile.cache import cached
from gpu_kernels.compile.compiled_kernel import compile_kernel
from gpu_kernels.compile.stored import ARCHITECTURES, store
from gpu_kernels.compile.targets import target_of
from gpu_kernels.variant import Variant


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0, or 2 with a line on stderr where an architecture or a kernel is unknown."""
    parser = argparse.ArgumentParser(prog="python -m gpu_kernels.compile", description=__doc__)
    parser.add_argument("--arch", help="architectures, with commas between")
    parser.add_argument("--kernel", help="only kernels of this name")
    parser.add_argument("--store", action="store_true", help="write the main loops that are kept")
    given = parser.parse_args(arguments)
    if given.arch is None and not given.store:
        print("give --arch", file=sys.stderr)
        return 2
    archs = given.arch.split(",") if given.arch else list(ARCHITECTURES)
    if given.store:
        return _store(archs)
    try:
        for arch in archs:
            target_of(arch)
    except ValueError as fault:
        print(fault, file=sys.stderr)
        return 2
    pairs = [(variant, arch) for arch in archs for variant in variants(arch)]
    if given.kernel is not None:
        names = sorted({variant.name for variant, _ in pairs})
        pairs = [(variant, arch) for variant, arch in pairs if variant.name == given.kernel]
        if not pairs:
            print(f"no kernel {given.kernel!r}, only {', '.join(names)}", file=sys.stderr)
            return 2
    for variant, arch in pairs:
        print(json.dumps({"of": len(pairs), **_outcome(variant, arch)}), flush=True)
    return 0


def _store(archs: list[str]) -> int:
    """Writes the loops that are kept of some architectures."""
    unkept = [arch for arch in archs if arch not in ARCHITECTURES]
    if unkept:
        print(f"no loops of {unkept[0]} are kept, only {', '.join(ARCHITECTURES)}", file=sys.stderr)
        return 2
    for file in store(archs=archs):
        print(file, flush=True)
    return 0


def _outcome(variant: Variant, arch: str) -> dict[str, Any]:
    """A kernel that does not compile is a result; the others are compiled all the same."""
    try:
        made = cached(variant, arch, lambda: compile_kernel(variant, arch).to_dict())
    except Exception as fault:  # whatever the compiler raises
        reason = str(fault).strip().splitlines() or [type(fault).__name__]
        return {"failed": {"kernel": variant.name, "arch": arch, "reason": reason[-1]}}
    return {"compiled": made}


if __name__ == "__main__":
    raise SystemExit(main())
