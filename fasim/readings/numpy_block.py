"""A thread block on NumPy arrays: the interpreter of the tile language behind numerics.

It shares the program with the other readings and nothing else: which tiles a row sees is
decided by looking at the mask itself.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
import numpy.typing as npt

from fasim.readings import dropout
from fasim.readings.global_memory import GlobalTensor, Index
from fasim.readings.rounding import Array, round_to
from fasim.schedules.language import ONE_BY_ONE, Block, Kernel, ProgramError, Rows, Tile


@dataclass(frozen=True, eq=False)
class Range(Rows):
    """Rows start … stop−1 of an axis; `tile` is their number in a full tile."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


@dataclass(eq=False)
class NumpyTile(Tile):
    """A tile of float32 values [rows, cols], or [rows, 1]; a load is read at its first use."""

    block: NumpyBlock
    rows: Range
    cols: Range | None
    array: Array | None = None
    source: tuple[GlobalTensor, Index] | None = None  # where a load takes its values from
    entries: NumpyTile | None = None  # the pages it takes them from, if they lie in pages
    base: NumpyTile | None = None  # what a transposed tile is a view of

    def value(self) -> Array:
        """The values, read from global memory if they have not been yet."""
        if self.base is not None:
            return self.base.value().T
        if self.array is None:
            assert self.source is not None
            self.array = self.block.read(self, *self.source, self.entries)
            self.entries = None
        return self.array

    def apply(self, op: str, *operands: Tile | float) -> Tile:
        return self.block.elementwise(op, self, operands)

    def reduce_rows(self, op: Literal["max", "sum"]) -> Tile:
        reduce = np.max if op == "max" else np.sum
        return NumpyTile(self.block, self.rows, None, reduce(self.value(), axis=1, keepdims=True))

    def to(self, dtype: str) -> Tile:
        return NumpyTile(self.block, self.rows, self.cols, round_to(self.value(), dtype))

    @property
    def T(self) -> Tile:
        assert self.cols is not None
        return NumpyTile(self.block, self.cols, self.rows, base=self)


class NumpyBlock(Block):
    """One thread block of a kernel, over global memory that it shares with the others.

    Attributes:
        tensor_flops: executed on the matrix unit: full tiles, edges and masked scores included.
    """

    def __init__(
        self,
        kernel: Kernel,
        memory: Mapping[str, GlobalTensor],
        number: int,
        coordinates: Mapping[str, int],
    ) -> None:
        self.kernel = kernel
        self.memory = memory
        self.number = number
        self.coordinates = coordinates
        self.tensor_flops = 0
        self._pending: Counter[str] = Counter()  # loads that nothing has used yet
        self._live: Counter[str] = Counter()  # shared-memory buffers in use
        self._excused: Counter[str] = Counter()  # of them, those that an empty loop left unused
        self._loops_begun = 0

    # Ranges.

    def rows(self, axis: str) -> Rows:
        tile = self.kernel.tile(axis)
        return self._range(axis, "own", self.coordinates[axis] * tile, tile)

    def all(self, axis: str) -> Rows:
        return self._range(axis, "all", 0, self.kernel.padded(axis))

    def pages(self, rows: Rows) -> Rows:
        keys, each = _range(rows), self.kernel.page_rows
        numbers = {key // each for key in range(keys.start, keys.stop)}
        return Range("page", len(numbers), rows.owner, min(numbers), max(numbers) + 1)

    def loop(
        self, axis: str, seen_from: Rows | None = None, within: Rows | None = None
    ) -> Iterator[Rows]:
        tile = self.kernel.tile(axis)
        starts = range(0, self.kernel.lengths[axis], tile)
        if within is not None:
            part = ceil(len(starts) / self.kernel.lengths[within.axis])
            own = self.coordinates[within.axis]
            starts = starts[own * part : (own + 1) * part]
        self._loops_begun += 1
        empty = True
        for start in reversed(starts) if axis in self.kernel.descending else starts:
            rows = self._range(axis, self._loops_begun, start, tile)
            if seen_from is None or self._visible(_range(seen_from), rows).any():
                empty = False
                yield rows
        if empty:
            self._excused |= self._pending

    def _range(self, axis: str, owner: str | int, start: int, tile: int) -> Range:
        stop = min(start + tile, self.kernel.lengths[axis])
        return Range(axis, tile, owner, start, stop)

    def _visible(self, a: Range, b: Range) -> npt.NDArray[np.bool_]:
        """[rows of a, rows of b]: whether the query of a pair sees its key."""
        seen = np.ones((a.length, b.length), bool)
        if not self.kernel.problem.masked:
            return seen
        down, across = np.arange(a.start, a.stop)[:, None], np.arange(b.start, b.stop)[None, :]
        row, key = (down, across) if a.axis == "q" else (across, down)
        own = row // self.kernel.group + (self.kernel.lengths["k"] - self.kernel.queries)
        before, after = self.kernel.problem.reach
        if before is not None:
            seen &= key >= own - before
        if after is not None:
            seen &= key <= own + after
        return seen

    # Global memory.

    def dtype(self, tensor: str) -> str:
        return self.kernel.tensor(tensor).dtype

    def load(self, tensor: str, *rows: Rows, through: Tile | None = None) -> Tile:
        index, sides = self._place(tensor, rows)
        self._pending[tensor] += 1
        across = sides[1] if len(sides) > 1 else None
        entries = None if through is None else _tile(through)
        source = (self.memory[tensor], index)
        return NumpyTile(self, sides[0], across, source=source, entries=entries)

    def read(
        self, tile: NumpyTile, memory: GlobalTensor, index: Index, entries: NumpyTile | None
    ) -> Array:
        """The values of a loaded tile, at its first use; gathered page by page if in pages."""
        if entries is None:
            values = memory.read(index, self.number)
        else:
            values = self._gather(tile, memory, index, entries)
        self._pending[memory.tensor.name] -= 1
        self._occupy(tile, memory.tensor.name)
        return values.reshape(tile.rows.length, -1)

    def _gather(
        self, tile: NumpyTile, memory: GlobalTensor, index: Index, entries: NumpyTile
    ) -> Array:
        """Rows of "k" from the pages that the table's entries name."""
        each, keys = self.kernel.page_rows, tile.rows
        _, kv_head, _, across = index
        pieces = []
        for number, entry in enumerate(entries.value()[:, 0], start=entries.rows.start):
            first = max(keys.start, number * each) - number * each
            last = min(keys.stop, (number + 1) * each) - number * each
            piece = (int(entry), kv_head, slice(first, last), across)
            pieces.append(memory.read(piece, self.number))
        return np.concatenate(pieces)

    def store(self, tensor: str, tile: Tile, *rows: Rows) -> None:
        index, sides = self._place(tensor, rows)
        values = _tile(tile).value()
        self.memory[tensor].write(index, values if len(sides) > 1 else values[:, 0], self.number)

    def reduce(self, tensor: str, tile: Tile, *rows: Rows) -> None:
        index, sides = self._place(tensor, rows)
        values = _tile(tile).value()
        self.memory[tensor].add(index, values if len(sides) > 1 else values[:, 0])

    def _place(self, name: str, rows: tuple[Rows, ...]) -> tuple[Index, list[Range]]:
        """Where a tile lies in a tensor: the index into it, and its sides."""
        given = {r.axis: r for r in rows}
        index: list[int | slice] = []
        sides: list[Range] = []
        for axis in self.kernel.tensor(name).axes:
            if axis in ONE_BY_ONE:
                one = _range(given[axis]).start if axis in given else self._coordinate(axis)
                index.append(one)
            else:
                side = _range(given[axis] if axis in given else self.all(axis))
                index.append(slice(side.start, side.stop))
                sides.append(side)
        return tuple(index), sides

    def _coordinate(self, axis: str) -> int:
        """The block's place along an axis that is taken one by one."""
        if axis in self.coordinates:
            return self.coordinates[axis]
        kv_head, member = divmod(self.coordinates["head"], self.kernel.problem.group)
        return {"kv_head": kv_head, "group": member}[axis]

    def _occupy(self, tile: NumpyTile, tensor: str) -> None:
        """Holds a shared-memory buffer for as long as the program holds the tile."""
        buffers = self.kernel.mapping.buffer_count(tensor)
        if buffers == 0:
            return
        self._live[tensor] += 1
        if self._live[tensor] > buffers:
            raise ProgramError(
                f"holds {self._live[tensor]} tiles of {tensor} at once; "
                f"its mapping has {buffers} shared-memory buffers for it"
            )
        weakref.finalize(tile, self._live.subtract, (tensor,))

    # Values.

    def full(self, value: float, rows: Rows, cols: Rows | None = None) -> Tile:
        down, across = _range(rows), None if cols is None else _range(cols)
        width = 1 if across is None else across.length
        return NumpyTile(self, down, across, np.full((down.length, width), value, np.float32))

    def matmul(self, a: Tile, b: Tile, acc: Tile | None = None, *, name: str) -> Tile:
        left, right = _tile(a), _tile(b)
        if left.cols is None or right.cols is None:
            raise ProgramError(f"matmul {name} takes two matrices, not one value a row")
        # FP32 operands reach a tensor core as TF32; narrower ones are exact in it.
        product = round_to(left.value(), "tf32") @ round_to(right.value(), "tf32")
        if acc is not None:
            product = product + _tile(acc).value()
        self.tensor_flops += 2 * left.rows.tile * left.cols.tile * right.cols.tile
        return NumpyTile(self, left.rows, right.cols, product)

    def mask(self, scores: Tile) -> Tile:
        tile = _tile(scores)
        assert tile.cols is not None
        seen = self._visible(tile.rows, tile.cols)
        hidden = np.where(seen, tile.value(), np.float32(-np.inf))
        return NumpyTile(self, tile.rows, tile.cols, hidden)

    def dropout(self, scores: Tile) -> Tile:
        problem, tile = self.kernel.problem, _tile(scores)
        if problem.dropout == 0:
            return tile
        assert tile.cols is not None
        queries, keys = (range(side.start, side.stop) for side in (tile.rows, tile.cols))
        batch, head = self.coordinates["batch"], self.coordinates["head"]
        kept = dropout.kept(problem, batch, head, queries, keys)
        scaled = tile.value() * np.float32(1 / (1 - problem.dropout))
        return NumpyTile(self, tile.rows, tile.cols, np.where(kept, scaled, np.float32(0)))

    def elementwise(self, op: str, tile: NumpyTile, others: tuple[Tile | float, ...]) -> NumpyTile:
        """`op` of tiles and numbers; a row vector is broadcast over the widest's columns."""
        tiles = [tile, *(_tile(other) for other in others if isinstance(other, Tile))]
        wide = next((t for t in tiles if t.cols is not None), tile)
        values = [
            _tile(other).value() if isinstance(other, Tile) else np.float32(other)
            for other in (tile, *others)
        ]
        # Infinities are meant: log2 of a row that sees nothing, a sum beyond a dtype's range.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return NumpyTile(self, wide.rows, wide.cols, ELEMENTWISE[op](*values))

    def finish(self) -> None:
        """Ends the block.

        Raises:
            ProgramError: a tile was loaded and never used, though no loop after it was empty.
        """
        for tensor, loads in self._pending.items():
            if loads > self._excused[tensor]:
                raise ProgramError(f"loads a tile of {tensor} and never uses it")

    def __str__(self) -> str:
        where = ", ".join(f"{axis} {index}" for axis, index in self.coordinates.items())
        return f"kernel {self.kernel.name}, block {where}"


def _range(rows: Rows) -> Range:
    assert isinstance(rows, Range)
    return rows


def _tile(tile: Tile) -> NumpyTile:
    assert isinstance(tile, NumpyTile)
    return tile


def _inverse(x: Array) -> Array:
    return np.where(x == 0, np.float32(0), np.float32(1) / x)


def _finite(x: Array) -> Array:
    return np.where(np.isneginf(x), np.float32(0), x)


ELEMENTWISE: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "maximum": np.maximum,
    "exp2": np.exp2,
    "log2": np.log2,
    "finite": _finite,
    "inverse": _inverse,
}
