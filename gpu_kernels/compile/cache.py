"""Compiled kernels as they were read, kept on disk by source, target and version."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from gpu_kernels.compile.ahead_of_time import options_of
from gpu_kernels.compile.targets import target_of
from gpu_kernels.compile.toolchain import toolchain_version
from gpu_kernels.variant import Variant


def folder() -> Path:
    """Where they lie: XDG_CACHE_HOME, by default ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "fasim" / "kernels"


def key_of(variant: Variant, arch: str) -> str:
    """A digest of all that the result depends on: what is compiled, by what, read how."""
    target = target_of(arch)
    parts = (
        variant.kernel.cache_key,  # of the source, and of that of the functions it calls
        variant.name,
        variant.schedule,
        variant.kernel_name,
        dict(variant.signature),
        {name: str(value) for name, value in variant.constants.items()},
        options_of(variant),
        (variant.head_dim, variant.tile_m, variant.tile_n, variant.dtype, variant.causal),
        arch,
        toolchain_version(target.arch),
        _reader(),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def cached(
    variant: Variant, arch: str, make: Callable[[], dict[str, Any]], where: Path | None = None
) -> dict[str, Any]:
    """What lies in the cache for a variant; made and kept if nothing does, or half a file."""
    file = (where or folder()) / f"{key_of(variant, arch)}.json"
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        pass
    made = make()
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(made), encoding="utf-8")
    unfinished.replace(file)
    return made


@cache
def _reader() -> str:
    """A digest of this package: another version of it may read otherwise."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
