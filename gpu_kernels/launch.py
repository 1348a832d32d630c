"""The one way a kernel is launched: under its name in fasim's chain, its tensors named as there.

A counter of bytes watches here; without one a launch costs nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

Tensors = Mapping[str, torch.Tensor]
Watch = Callable[[str, Any, Tensors], AbstractContextManager[None]]

_watches: list[Watch] = []


def launch(
    name: str, kernel: Any, grid: tuple[int, ...], tensors: Tensors, *scalars: Any, **constants: Any
) -> None:
    """Runs `kernel` over `grid`: first its tensors in order, then scalars, then constants by name.

    Args:
        name: of the kernel in fasim's chain.
        constants: constexpr arguments, num_warps, num_stages.
    """
    with _watches[-1](name, kernel, tensors) if _watches else nullcontext():
        kernel[grid](*tensors.values(), *scalars, **constants)


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Every launch inside happens within `watch(name, kernel, tensors)`."""
    _watches.append(watch)
    try:
        yield
    finally:
        _watches.pop()
