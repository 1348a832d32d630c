"""Bytes of every global access of interpreted kernels, by tensor; masked lanes move none."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from triton.runtime import interpreter

from gpu_kernels.interpret import repairs
from gpu_kernels.launch import Tensors, watching


class StrayAccess(Exception):
    """An access outside of every tensor that a kernel was given."""


@dataclass
class Access:
    """Bytes of one tensor in one launch.

    size_bytes: of the tensor. may_read, may_write: what the kernel's note says of it.
    """

    size_bytes: int
    may_read: bool
    may_write: bool
    read: int = 0
    write: int = 0
    reduce: int = 0


@dataclass
class Launch:
    """A kernel's launch, by its name in fasim's chain, and what it did to each tensor."""

    kernel: str
    accesses: dict[str, Access]
    _ranges: list[tuple[int, int, Access]] = field(default_factory=list, repr=False)

    def count(self, kind: str, pointers: Any, mask: Any) -> None:
        """Adds the bytes of one access: `kind` is read, write or reduce."""
        element_bytes = max(8, pointers.get_element_ty().primitive_bitwidth) // 8
        addresses = np.broadcast_to(pointers.data, np.broadcast(pointers.data, mask.data).shape)
        addresses = addresses[np.broadcast_to(mask.data, addresses.shape).astype(bool)]
        left = addresses.size
        for start, stop, access in self._ranges:
            hits = int(((addresses >= start) & (addresses < stop)).sum())
            setattr(access, kind, getattr(access, kind) + hits * element_bytes)
            left -= hits
        if left:
            raise StrayAccess(f"{self.kernel}: {left} elements outside of {list(self.accesses)}")


def note(kernel: Any) -> tuple[set[str], set[str]]:
    """Parameters that a kernel reads, and writes, by the `read … ; write …` line it carries.

    Raises:
        ValueError: it carries none.
    """
    doc = inspect.getdoc(kernel.fn) or ""
    first = doc.splitlines()[0] if doc else ""
    if not first.startswith("read") or "; write" not in first:
        raise ValueError(f"{kernel.fn.__name__} has no line `read … ; write …`")
    read, write = first.removeprefix("read").split("; write")
    return set(read.split()), set(write.split())


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """First address of a tensor, and the first behind it."""
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return start, start + (last + 1) * tensor.element_size()


@contextmanager
def counted() -> Iterator[list[Launch]]:
    """The launches that happen inside, in order, with their bytes.

    Raises:
        StrayAccess: a kernel leaves its tensors, from within its launch.
    """
    launches: list[Launch] = []
    builder = interpreter.interpreter_builder
    masked_load, masked_store = builder.create_masked_load, builder.create_masked_store
    atomic_rmw, atomic_cas = builder.create_atomic_rmw, builder.create_atomic_cas

    def load(pointers: Any, mask: Any, *rest: Any) -> Any:
        launches[-1].count("read", pointers, mask)
        return masked_load(pointers, mask, *rest)

    def store(pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        launches[-1].count("write", pointers, mask)
        return masked_store(pointers, value, mask, *rest)

    def rmw(operation: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        launches[-1].count("reduce", pointers, mask)
        return atomic_rmw(operation, pointers, value, mask, *rest)

    def cas(pointers: Any, *rest: Any) -> Any:
        every = interpreter.TensorHandle(np.ones_like(pointers.data, bool), None)
        launches[-1].count("reduce", pointers, every)
        return atomic_cas(pointers, *rest)

    @contextmanager
    def watch(name: str, kernel: Any, tensors: Tensors) -> Iterator[None]:
        read, write = note(kernel)
        parameters = dict(zip(tensors, kernel.arg_names, strict=False))
        launch = Launch(name, {})
        for tensor_name, tensor in tensors.items():
            parameter = parameters[tensor_name]
            size = tensor.numel() * tensor.element_size()
            access = Access(size, parameter in read, parameter in write)
            launch.accesses[tensor_name] = access
            launch._ranges.append((*_extent(tensor), access))
        launches.append(launch)
        yield

    with ExitStack() as stack:
        for name, replacement in {
            "create_masked_load": load,
            "create_masked_store": store,
            "create_atomic_rmw": rmw,
            "create_atomic_cas": cas,
            "create_dot": repairs.create_dot,
            "cast_impl": repairs.casting(builder.cast_impl),
        }.items():
            stack.enter_context(patch.object(builder, name, replacement))
        indexing = repairs.indexing(interpreter._patch_lang_tensor)
        stack.enter_context(patch.object(interpreter, "_patch_lang_tensor", indexing))
        stack.enter_context(np.errstate(all="ignore"))
        stack.enter_context(watching(watch))
        yield launches
