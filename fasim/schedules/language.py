"""The tile language: what a schedule is written in.

A *program* is an ordinary function `program(block, problem)`. It asks its `Block` for ranges
of rows, loads tiles, computes on them and stores them. Two interpreters give it meaning: one
records what a block does (`record.py`), one does it on NumPy arrays (`readings/numpy_block.py`).
Standard library only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from fasim.problem import DTYPE_BYTES, Attention
from fasim.schedules.mapping import Mapping

LOG2_E = 1.4426950408889634

# Bytes of what a tensor holds: the dtypes of attention, indices, and what dropout keeps.
ELEMENT_BYTES = {**DTYPE_BYTES, "int32": 4, "bool": 1}
# Axes that go one by one: a tile holds one index of each, given by the block's coordinates or by
# a loop, and has no side along them.
ONE_BY_ONE = ("batch", "head", "kv_head", "group", "split")


class ProgramError(Exception):
    """A program that breaks a rule of the tile language."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in global memory, declared by the names of its axes.

    `axes` are names of the kernel's axes, outermost first: ("batch", "kv_head", "k", "d").
    Grouped-query attention is the one word "kv_head" in place of "head"; "group" counts the
    query heads of one kv_head.

    Attributes:
        page_rows: rows of "k" in a page, for a tensor that lies in a pool of pages, which a page
            table names in order; 0 if it is contiguous.
        repeated: blocks may write the same values to the same place, as each works them out for
            itself.
        innermost: the axis whose elements lie side by side, if it is not the last named.
    """

    name: str
    axes: tuple[str, ...]
    dtype: str
    page_rows: int = 0
    repeated: bool = False
    innermost: str = ""

    @property
    def element_bytes(self) -> int:
        """Bytes of one element."""
        return ELEMENT_BYTES[self.dtype]

    def elements(self, lengths: dict[str, int]) -> int:
        """Number of elements, given the length of each axis."""
        count = 1
        for axis in self.axes:
            count *= lengths[axis]
        return count

    def bytes(self, lengths: dict[str, int]) -> int:
        """Bytes of the whole tensor, given the length of each axis."""
        return self.elements(lengths) * self.element_bytes

    def allocated_bytes(self, lengths: dict[str, int]) -> int:
        """Bytes of device memory it takes: whole pages, where it lies in pages."""
        if not self.page_rows:
            return self.bytes(lengths)
        rows = -(-lengths["k"] // self.page_rows) * self.page_rows
        return self.bytes({**lengths, "k": rows})


@dataclass(frozen=True, eq=False)
class Kernel:
    """One launch: a program, what its axes measure, and how it is mapped.

    Attributes:
        grid: axes whose tiles are the blocks, fastest-varying first: ("q", "batch", "head").
        lengths: elements along every axis.
        tiles: rows a block or a loop step takes of an axis; an axis not named is taken whole.
        tensors: everything the program loads, stores or reduces into.
        descending: axes whose loops run from the last tile to the first.
        group: query heads folded into the rows of "q" (packed GQA): row r is query r // group of
            head r % group of its key/value head.
    """

    name: str
    program: Callable[[Block, Attention], None] = field(repr=False)
    problem: Attention
    grid: tuple[str, ...]
    lengths: dict[str, int]
    tiles: dict[str, int]
    tensors: tuple[Tensor, ...]
    mapping: Mapping
    descending: frozenset[str] = frozenset()
    group: int = 1

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name.

        Raises:
            ProgramError: the kernel declares no such tensor.
        """
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        known = ", ".join(tensor.name for tensor in self.tensors)
        raise ProgramError(f"kernel {self.name} declares no tensor {name!r}, only {known}")

    def tile(self, axis: str) -> int:
        """Rows of one tile of `axis`; batch, heads and splits go one by one."""
        if axis in ONE_BY_ONE:
            return 1
        return self.tiles.get(axis, self.lengths[axis])

    def padded(self, axis: str) -> int:
        """Rows of a whole axis as the kernel computes it: a narrow tile is padded to its size."""
        return max(self.lengths[axis], self.tile(axis))

    def tile_count(self, axis: str) -> int:
        """Tiles of an axis; the last one may be cut short."""
        return -(-self.lengths[axis] // self.tile(axis))

    @property
    def queries(self) -> int:
        """Queries of a head; "q" counts them once for each head that is folded into it."""
        return self.lengths["q"] // self.group

    @property
    def page_rows(self) -> int:
        """Keys in a page; 0 if no tensor lies in pages."""
        return max(tensor.page_rows for tensor in self.tensors)

    def pages(self, start: int, stop: int) -> range:
        """The pages that hold keys start … stop−1."""
        return range(start // self.page_rows, -(-stop // self.page_rows))

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """Blocks along each axis of the grid, fastest-varying first."""
        return tuple(self.tile_count(axis) for axis in self.grid)

    @property
    def blocks(self) -> int:
        """Thread blocks of the launch."""
        count = 1
        for tiles in self.grid_shape:
            count *= tiles
        return count


@dataclass(frozen=True, eq=False)
class Rows:
    """A range of one axis. Opaque to programs: they pass it on and never look inside.

    Attributes:
        axis: its name.
        tile: rows of a full tile.
        owner: "own" (the block's grid tile), "all", or the number of the loop that steps it.
    """

    axis: str
    tile: int
    owner: str | int

    def __bool__(self) -> bool:
        raise ProgramError(f"a program must not branch on rows of {self.axis!r}")


Which = Literal["first", "after first", "before last", "last"]


@dataclass(frozen=True, eq=False)
class Steps:
    """Steps of a loop in which an access happens, as the tile's own rows go through them.

    A program cannot branch; what its kernel does only once, or not at once, it says so.

    Attributes:
        which: of the steps that the tile's rows see under the mask.
        loop: the rows of the loop's step.
    """

    which: Which
    loop: Rows


class Tile(ABC):
    """A tile of values: rows × columns, or one value a row.

    Operators between a tile and a one-value-a-row tile broadcast along the row. Arithmetic is
    FP32; `to` rounds.
    """

    @abstractmethod
    def apply(self, op: str, *operands: Tile | float) -> Tile:
        """Elementwise `op` of self and operands."""

    @abstractmethod
    def reduce_rows(self, op: Literal["max", "sum"]) -> Tile:
        """One value a row."""

    @abstractmethod
    def to(self, dtype: str) -> Tile:
        """Rounded to `dtype`."""

    @property
    @abstractmethod
    def T(self) -> Tile:
        """Transposed; costs nothing by itself."""

    def __add__(self, other: Tile | float) -> Tile:
        return self.apply("add", other)

    def __sub__(self, other: Tile | float) -> Tile:
        return self.apply("sub", other)

    def __mul__(self, other: Tile | float) -> Tile:
        return self.apply("mul", other)

    def maximum(self, other: Tile) -> Tile:
        return self.apply("maximum", other)

    def exp2(self) -> Tile:
        return self.apply("exp2")

    def log2(self) -> Tile:
        return self.apply("log2")

    def finite(self) -> Tile:
        """−inf becomes 0: the maximum of a row that sees nothing."""
        return self.apply("finite")

    def inverse(self) -> Tile:
        """1/x, and 0 where x is 0: the sum of a row that sees nothing."""
        return self.apply("inverse")

    def row_max(self) -> Tile:
        """The maximum of each row."""
        return self.reduce_rows("max")

    def row_sum(self) -> Tile:
        """The sum of each row."""
        return self.reduce_rows("sum")

    def __bool__(self) -> bool:
        raise ProgramError("a program must not branch on values")


class Block(ABC):
    """What a program may ask of its thread block."""

    @abstractmethod
    def rows(self, axis: str) -> Rows:
        """The block's own rows of a grid axis."""

    @abstractmethod
    def all(self, axis: str) -> Rows:
        """A whole axis."""

    @abstractmethod
    def loop(
        self,
        axis: str,
        seen_from: Rows | None = None,
        within: Rows | None = None,
        *,
        in_turns: bool = False,
    ) -> Iterator[Rows]:
        """The tiles of an axis, or those of them that `seen_from` sees under the mask.

        Args:
            within: the block's own part of a grid axis that deals the tiles out: part i of s
                takes tiles i·⌈T/s⌉ … (i+1)·⌈T/s⌉−1 of T, and may be left with none.
            in_turns: it takes tiles i, i+s, i+2·s, … instead.
        """

    @abstractmethod
    def pages(self, rows: Rows) -> Rows:
        """The pages that hold rows of "k", as a range of "page"."""

    @abstractmethod
    def dtype(self, tensor: str) -> str:
        """What a tensor is declared as: a tile is rounded to it before it is stored."""

    @abstractmethod
    def load(
        self,
        tensor: str,
        *rows: Rows,
        through: Tile | None = None,
        when: Steps | None = None,
        otherwise: float = 0.0,
    ) -> Tile:
        """A tile from global memory, read when it is first used.

        Each range binds the axis it names, the block's coordinates bind the rest.

        Args:
            through: entries of the page table for these rows of a tensor that lies in pages.
            when: steps in which it is read; in others it is full of `otherwise`.
        """

    @abstractmethod
    def store(self, tensor: str, tile: Tile, *rows: Rows, when: Steps | None = None) -> None:
        """A tile into global memory; only in some steps, if `when` says which."""

    @abstractmethod
    def reduce(self, tensor: str, tile: Tile, *rows: Rows) -> None:
        """An FP32 tile added to global memory, atomically; blocks may add to the same place."""

    @abstractmethod
    def full(self, value: float, rows: Rows, cols: Rows | None = None) -> Tile:
        """An FP32 accumulator."""

    @abstractmethod
    def matmul(self, a: Tile, b: Tile, acc: Tile | None = None, *, name: str) -> Tile:
        """a·b (+ acc) of operands of one dtype, FP32-accumulating.

        The name is what a mapping refers to.
        """

    @abstractmethod
    def mask(self, scores: Tile) -> Tile:
        """−inf where the problem hides a score; no operation in an unmasked tile."""

    @abstractmethod
    def dropout(self, scores: Tile) -> Tile:
        """0 where dropout drops an element of P, the others scaled by 1/(1 − dropout).

        Which ones depends on the seed and on batch, head, query and key alone: every program,
        forward or backward, drops the same. No operation in a problem without dropout.
        """
