"""Global memory as numerics sees it: values, bytes moved, and poison.

What is a race, a wasted access or uninitialised memory on a GPU is an error here.
"""

from __future__ import annotations

import numpy as np

from fasim.readings.rounding import Array, round_to
from fasim.readings.traffic import Access
from fasim.schedules.language import ProgramError, Tensor

Index = tuple[int | slice, ...]

NOBODY = -1


class GlobalTensor:
    """A tensor in global memory that knows, element by element, who wrote it last.

    Attributes:
        values: what it holds, rounded to its dtype; NaN where nothing has been written.
        access: bytes the current kernel has moved.

    Raises:
        ValueError: `values` do not have the tensor's shape.
    """

    def __init__(self, tensor: Tensor, lengths: dict[str, int], values: Array | None) -> None:
        shape = tuple(lengths[axis] for axis in tensor.axes)
        if values is not None and values.shape != shape:
            raise ValueError(f"{tensor.name} has shape {values.shape}; it must be {shape}")
        self.tensor = tensor
        self.values: Array = np.full(shape, np.nan, np.float32)
        if values is not None:
            self.values[...] = round_to(values, tensor.dtype)
        self._defined = ~np.isnan(self.values)
        self.begin_kernel()

    def begin_kernel(self) -> None:
        """Forgets who wrote what: a kernel sees all that earlier ones wrote."""
        self.access = Access()
        self._writer = np.full(self.values.shape, NOBODY)
        self._unread = np.zeros(self.values.shape, bool)
        self._loaded = self._reduced = False

    def read(self, index: Index, block: int) -> Array:
        """A copy of the elements at `index`.

        Raises:
            ProgramError: nothing, or another block of this kernel, has written one of them, or
                this kernel reduces into the tensor.
        """
        name = self.tensor.name
        self._loaded = True
        if self._reduced:
            raise ProgramError(f"reads {name}, into which this kernel reduces")
        if not self._defined[index].all():
            raise ProgramError(f"reads elements of {name} that nothing has written")
        if self._touched_by_others(index, block):
            raise ProgramError(f"reads what another block of this kernel wrote to {name}")
        self._unread[index] = False
        values: Array = self.values[index].copy()
        self.access.read_bytes += values.size * self.tensor.element_bytes
        return values

    def write(self, index: Index, values: Array, block: int) -> None:
        """Writes the elements at `index`; `values` are broadcast to their shape.

        Raises:
            ProgramError: another block of this kernel has written one of them (other values, if
                the tensor may be written repeatedly), or this block has and not read it since, or
                this kernel reduces into the tensor.
        """
        name = self.tensor.name
        if self._reduced:
            raise ProgramError(f"writes {name}, into which this kernel reduces")
        if self.tensor.repeated:
            self._check_repeated(index, values)
        elif self._touched_by_others(index, block):
            raise ProgramError(f"writes what another block of this kernel wrote to {name}")
        if (self._unread[index] & (self._writer[index] == block)).any():
            raise ProgramError(f"writes {name} again without having read it since")
        self.values[index] = values
        self._defined[index] = True
        self._writer[index] = block
        self._unread[index] = True
        self.access.write_bytes += self.values[index].size * self.tensor.element_bytes

    def add(self, index: Index, values: Array) -> None:
        """Adds to the elements at `index`; blocks may add to the same ones in any order.

        Raises:
            ProgramError: nothing has written one of them, or this kernel loads or stores the
                tensor.
        """
        name = self.tensor.name
        self._reduced = True
        if self._loaded:
            raise ProgramError(f"reduces into {name}, which this kernel reads")
        if (self._writer != NOBODY).any():
            raise ProgramError(f"reduces into {name}, which this kernel writes")
        if not self._defined[index].all():
            raise ProgramError(f"reduces into elements of {name} that nothing has written")
        self.values[index] += values
        self.access.reduce_bytes += values.size * self.tensor.element_bytes

    def _check_repeated(self, index: Index, values: Array) -> None:
        written = self._writer[index] != NOBODY
        if (written & (self.values[index] != values)).any():
            raise ProgramError(f"writes other values than another block to {self.tensor.name}")

    def _touched_by_others(self, index: Index, block: int) -> bool:
        writer = self._writer[index]
        return bool(((writer != NOBODY) & (writer != block)).any())
