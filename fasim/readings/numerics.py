"""The numerics reading: runs a chain on NumPy arrays, inside a bounded shared memory, poisoned.

Shares the program with the other readings and nothing else: which tiles a row sees is decided
by looking at the mask, bytes are counted access by access. Outputs start as NaN, and what
would be a race or a wasted access on a GPU is an error here.
"""

from __future__ import annotations

import itertools
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fasim.problem import Attention
from fasim.readings.rounding import Array, round_to
from fasim.readings.traffic import Access, Level
from fasim.schedules.language import Block, Kernel, ProgramError, Rows, Tensor, Tile


@dataclass(frozen=True, eq=False)
class _Range(Rows):
    start: int = 0
    stop: int = 0


@dataclass(frozen=True)
class NumericsResult:
    """Tensors after the chain, bytes counted by kernel and tensor, matmul FLOPs executed."""

    tensors: dict[str, Array]
    kernels: tuple[Level, ...]
    tensor_flops: int


class _Memory:
    """A tensor in global memory: its values, and for each element who wrote it last."""

    def __init__(self, tensor: Tensor, lengths: dict[str, int], values: Array | None) -> None:
        shape = tuple(lengths[axis] for axis in tensor.axes)
        if values is not None and values.shape != shape:
            raise ValueError(f"{tensor.name} has shape {values.shape}; it must be {shape}")
        self.tensor = tensor
        self.defined = np.full(shape, values is not None)
        self.values = (
            np.full(shape, np.nan, np.float32) if values is None else round_to(values, tensor.dtype)
        )
        self.begin_kernel()

    def begin_kernel(self) -> None:
        self.writer = np.full(self.values.shape, -1)
        self.unread = np.zeros(self.values.shape, bool)


@dataclass(eq=False)
class _Tile(Tile):
    block: _NumpyBlock
    rows: _Range | None
    cols: _Range | None
    array: Array | None = None  # None until a load is first used
    load: tuple[_Memory, tuple[int | slice, ...]] | None = None
    base: _Tile | None = None  # what a transposed tile is a view of

    def value(self) -> Array:
        if self.base is not None:
            return self.base.value().T
        if self.array is None:
            assert self.load is not None
            self.array = self.block.read(self, *self.load)
        return self.array

    def apply(self, op: str, *operands: Tile | float) -> Tile:
        return self.block.elementwise(op, self, operands)

    def reduce_rows(self, op: Literal["max", "sum"]) -> Tile:
        value = self.value()
        reduced = value.max(axis=1, keepdims=True) if op == "max" else value.sum(1, keepdims=True)
        return _Tile(self.block, self.rows, None, reduced)

    def to(self, dtype: str) -> Tile:
        return _Tile(self.block, self.rows, self.cols, round_to(self.value(), dtype))

    @property
    def T(self) -> Tile:
        return _Tile(self.block, self.cols, self.rows, base=self)


class _NumpyBlock(Block):
    def __init__(self, run: _KernelRun, number: int, coordinates: dict[str, int]) -> None:
        self.run = run
        self.kernel = run.kernel
        self.number = number
        self.coordinates = coordinates
        self.pending: Counter[str] = Counter()  # loads that nothing has used yet
        self.live: Counter[str] = Counter()  # shared-memory buffers in use
        self.loops_begun = self.loop_trips = 0

    def _range(self, axis: str, owner: str | int, start: int, tile: int) -> _Range:
        stop = min(start + tile, self.kernel.lengths[axis])
        return _Range(axis, tile, owner, start, stop)

    def rows(self, axis: str) -> Rows:
        tile = self.kernel.tile(axis)
        return self._range(axis, "own", self.coordinates[axis] * tile, tile)

    def all(self, axis: str) -> Rows:
        return self._range(axis, "all", 0, self.kernel.padded(axis))

    def loop(self, axis: str, seen_from: Rows | None = None) -> Iterator[Rows]:
        tile = self.kernel.tile(axis)
        starts = range(0, self.kernel.lengths[axis], tile)
        self.loops_begun += 1
        for start in reversed(starts) if axis in self.kernel.descending else starts:
            rows = self._range(axis, 0, start, tile)
            if seen_from is None or self._any_visible(seen_from, rows):
                self.loop_trips += 1
                yield rows

    def _any_visible(self, a: Rows, b: Rows) -> bool:
        assert isinstance(a, _Range)
        assert isinstance(b, _Range)
        return bool(self._visible(a, b).any())

    def _visible(self, a: _Range, b: _Range) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        """[rows of a, rows of b]: whether the query of a pair sees its key."""
        if not self.kernel.problem.causal:
            return np.ones((a.stop - a.start, b.stop - b.start), bool)
        down, across = np.arange(a.start, a.stop)[:, None], np.arange(b.start, b.stop)[None, :]
        query, key = (down, across) if a.axis == "q" else (across, down)
        return key <= query + (self.kernel.lengths["k"] - self.kernel.lengths["q"])

    def load(self, tensor: str, *rows: Rows) -> Tile:
        memory, index, sides = self._place(tensor, rows)
        across = sides[1] if len(sides) > 1 else None
        self.pending[tensor] += 1
        return _Tile(self, sides[0], across, load=(memory, index))

    def read(self, tile: _Tile, memory: _Memory, index: tuple[int | slice, ...]) -> Array:
        name = memory.tensor.name
        writer = memory.writer[index]
        if not memory.defined[index].all():
            raise ProgramError(f"{self}: reads elements of {name} that nothing has written")
        if ((writer != -1) & (writer != self.number)).any():
            raise ProgramError(f"{self}: reads what another block of this kernel wrote to {name}")
        memory.unread[index] = False
        values: Array = memory.values[index].copy()
        values = values[:, None] if values.ndim == 1 else values
        self.run.level.setdefault(name, Access()).read_bytes += (
            values.size * memory.tensor.element_bytes
        )
        self.pending[name] -= 1
        self._occupy(tile, name)
        return values

    def _occupy(self, tile: _Tile, tensor: str) -> None:
        """Holds a shared-memory buffer for as long as the tile lives."""
        buffers = self.kernel.mapping.buffer_count(tensor)
        if buffers == 0:
            return
        self.live[tensor] += 1
        if self.live[tensor] > buffers:
            raise ProgramError(
                f"{self}: holds {self.live[tensor]} tiles of {tensor} at once; "
                f"its mapping has {buffers} shared-memory buffers for it"
            )
        weakref.finalize(tile, self.live.subtract, (tensor,))

    def store(self, tensor: str, tile: Tile, *rows: Rows) -> None:
        assert isinstance(tile, _Tile)
        memory, index, _ = self._place(tensor, rows)
        writer = memory.writer[index]
        if ((writer != -1) & (writer != self.number)).any():
            raise ProgramError(f"{self}: writes what another block of this kernel wrote, {tensor}")
        if memory.unread[index].any():
            raise ProgramError(f"{self}: writes {tensor} again without having read it since")
        target = memory.values[index]
        values = np.broadcast_to(
            tile.value(), target.shape if target.ndim == 2 else (*target.shape, 1)
        )
        memory.values[index] = values.reshape(target.shape)
        memory.defined[index] = True
        memory.writer[index] = self.number
        memory.unread[index] = True
        self.run.level.setdefault(tensor, Access()).write_bytes += (
            target.size * memory.tensor.element_bytes
        )

    def _place(
        self, name: str, rows: tuple[Rows, ...]
    ) -> tuple[_Memory, tuple[int | slice, ...], list[_Range]]:
        """Where a tile lies: its memory, the index into it, and its sides."""
        given = {r.axis: r for r in rows}
        index: list[int | slice] = []
        sides: list[_Range] = []
        for axis in self.kernel.tensor(name).axes:
            if axis == "kv_head":
                group = self.kernel.lengths["head"] // self.kernel.lengths["kv_head"]
                index.append(self.coordinates["head"] // group)
            elif axis in ("batch", "head"):
                index.append(self.coordinates[axis])
            else:
                side = given[axis] if axis in given else self.all(axis)
                assert isinstance(side, _Range)
                index.append(slice(side.start, side.stop))
                sides.append(side)
        return self.run.memory[name], tuple(index), sides

    def full(self, value: float, rows: Rows, cols: Rows | None = None) -> Tile:
        assert isinstance(rows, _Range)
        assert cols is None or isinstance(cols, _Range)
        width = 1 if cols is None else cols.stop - cols.start
        array = np.full((rows.stop - rows.start, width), value, np.float32)
        return _Tile(self, rows, cols, array)

    def matmul(self, a: Tile, b: Tile, acc: Tile | None = None, *, name: str) -> Tile:
        assert isinstance(a, _Tile)
        assert isinstance(b, _Tile)
        assert a.rows is not None
        assert a.cols is not None
        assert b.cols is not None
        product = a.value() @ b.value()
        if acc is not None:
            assert isinstance(acc, _Tile)
            product = product + acc.value()
        self.run.tensor_flops += 2 * a.rows.tile * b.cols.tile * a.cols.tile
        return _Tile(self, a.rows, b.cols, product)

    def mask(self, scores: Tile) -> Tile:
        assert isinstance(scores, _Tile)
        assert scores.rows is not None
        assert scores.cols is not None
        seen = self._visible(scores.rows, scores.cols)
        hidden = np.where(seen, scores.value(), np.float32(-np.inf))
        return _Tile(self, scores.rows, scores.cols, hidden)

    def elementwise(self, op: str, tile: _Tile, others: tuple[Tile | float, ...]) -> _Tile:
        values = [tile.value()]
        wide = tile
        for other in others:
            if isinstance(other, _Tile):
                values.append(other.value())
                wide = other if wide.cols is None and other.cols is not None else wide
            else:
                assert isinstance(other, float | int)
                values.append(np.float32(other))  # type: ignore[arg-type]
        with np.errstate(divide="ignore", invalid="ignore"):
            result = _ELEMENTWISE[op](*values)
        return _Tile(self, wide.rows, wide.cols, result)

    def finish(self) -> None:
        """A load that nothing used is an error, unless no loop of the block ran."""
        idle = self.loops_begun > 0 and self.loop_trips == 0
        for tensor, loads in self.pending.items():
            if loads and not idle:
                raise ProgramError(f"{self}: loads a tile of {tensor} and never uses it")

    def __str__(self) -> str:
        where = ", ".join(f"{axis} {index}" for axis, index in self.coordinates.items())
        return f"kernel {self.kernel.name}, block {where}"


def _inverse(x: Array) -> Array:
    return np.where(x == 0, np.float32(0), np.float32(1) / x)


_ELEMENTWISE = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "maximum": np.maximum,
    "exp2": np.exp2,
    "log2": np.log2,
    "finite": lambda x: np.where(np.isneginf(x), np.float32(0), x),
    "inverse": _inverse,
}


class _KernelRun:
    """One kernel: its blocks in random order, its bytes, its shared memory."""

    def __init__(self, kernel: Kernel, memory: dict[str, _Memory]) -> None:
        self.kernel = kernel
        self.memory = memory
        self.level: Level = {}
        self.tensor_flops = 0

    def execute(self, random: np.random.Generator) -> None:
        for memory in self.memory.values():
            memory.begin_kernel()
        kernel = self.kernel
        blocks = list(itertools.product(*(range(n) for n in reversed(kernel.grid_shape))))
        for number in random.permutation(len(blocks)):
            coordinates = dict(zip(reversed(kernel.grid), blocks[number], strict=True))
            block = _NumpyBlock(self, int(number), coordinates)
            kernel.program(block, kernel.problem)
            block.finish()


def run(kernels: tuple[Kernel, ...], inputs: dict[str, Array], seed: int = 0) -> NumericsResult:
    """Runs a chain on `inputs` (float32, rounded to each tensor's dtype on the way in).

    Args:
        inputs: arrays of the tensors that no kernel of the chain writes first; shapes as
            declared: Q [batch, heads, seqlen_q, head_dim], K and V [batch, kv_heads, …].
        seed: of the order in which blocks run.

    Raises:
        ProgramError: a poison check failed; the message names kernel, block and tensor.
    """
    random = np.random.default_rng(seed)
    memory: dict[str, _Memory] = {}
    levels: list[Level] = []
    flops = 0
    for kernel in kernels:
        for tensor in kernel.tensors:
            if tensor.name not in memory:
                values = inputs.get(tensor.name)
                memory[tensor.name] = _Memory(tensor, kernel.lengths, values)
        kernel_run = _KernelRun(kernel, {t.name: memory[t.name] for t in kernel.tensors})
        kernel_run.execute(random)
        levels.append(kernel_run.level)
        flops += kernel_run.tensor_flops
    tensors = {name: m.values for name, m in memory.items()}
    return NumericsResult(tensors, tuple(levels), flops)


def random_inputs(problem: Attention, seed: int = 0, size: float = 1.0) -> dict[str, Array]:
    """Normally distributed Q, K and V of the problem's shapes, rounded to its dtype."""
    random = np.random.default_rng(seed)
    shapes = {
        "Q": (problem.batch, problem.heads, problem.seqlen_q, problem.head_dim),
        "K": (problem.batch, problem.kv_heads, problem.seqlen_k, problem.head_dim),
        "V": (problem.batch, problem.kv_heads, problem.seqlen_k, problem.head_dim),
    }
    return {
        name: round_to((random.standard_normal(shape) * size).astype(np.float32), problem.dtype)
        for name, shape in shapes.items()
    }
