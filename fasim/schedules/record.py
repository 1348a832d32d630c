"""The recording interpreter: one pass over a program gives every operation of a block.

A program cannot branch, so every block of a kernel does the same operations and only the trip
counts of its loops differ (`visits.py`). Each loop body is recorded twice: what the second
pass takes from the first is what the loop carries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from fasim.schedules.language import ONE_BY_ONE, Block, Kernel, ProgramError, Rows, Tile


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop of a program: the axis it steps along, and the ranges that choose its tiles."""

    number: int
    axis: str
    seen_from: Rows | None
    parent: tuple[int, ...]
    within: Rows | None = None


@dataclass(slots=True)
class Op:
    """One tile operation as recorded.

    Attributes:
        kind: load, store, reduce, full, matmul, mask, dropout, cast, row_max, row_sum, or an
            elementwise name.
        name: the tensor of a load, store or reduce; the name of a matmul.
        inputs: indices of the operations whose results it takes, in order.
        shape: rows and columns of a *full* tile of the result; columns 1 for one value a row.
        axes: the axes of rows and columns.
        rows: for a load, store or reduce, the range that binds each of the tensor's axes; batch
            and head axes that the block's coordinates bind are absent.
        path: the loops around it, outermost first.
        iteration: 0, or 1 in the second recorded pass of a loop around it.
        used_in: for a load, the loops around its first use: it happens if these run at all.
        contraction: for a matmul, length of a full tile's contracted side.
        contracted_axis: the axis of that side.
    """

    index: int
    kind: str
    name: str = ""
    inputs: tuple[int, ...] = ()
    shape: tuple[int, int] = (1, 1)
    axes: tuple[str, str] = ("", "")
    dtype: str = "fp32"
    rows: dict[str, Rows] = field(default_factory=dict)
    path: tuple[int, ...] = ()
    iteration: int = 0
    used_in: tuple[int, ...] | None = None
    contraction: int = 0
    contracted_axis: str = ""

    @property
    def elements(self) -> int:
        """Elements of a full tile of the result."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class Record:
    """Every operation of one block, loop bodies twice, in program order."""

    kernel: Kernel
    ops: tuple[Op, ...]
    loops: tuple[Loop, ...]

    def once(self) -> Iterator[Op]:
        """Each operation of the program once: loop bodies by their first pass."""
        return (op for op in self.ops if op.iteration == 0)


@dataclass(frozen=True, slots=True)
class _Tile(Tile):
    recorder: _Recorder
    op: int
    row_axis: Rows | None
    col_axis: Rows | None

    def apply(self, op: str, *operands: Tile | float) -> Tile:
        return self.recorder.elementwise(op, self, operands)

    def reduce_rows(self, op: Literal["max", "sum"]) -> Tile:
        return self.recorder.emit(f"row_{op}", self.row_axis, None, inputs=(self,))

    def to(self, dtype: str) -> Tile:
        return self.recorder.emit("cast", self.row_axis, self.col_axis, inputs=(self,), dtype=dtype)

    @property
    def T(self) -> Tile:
        return _Tile(self.recorder, self.op, self.col_axis, self.row_axis)


class _Recorder(Block):
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.ops: list[Op] = []
        self.loops: list[Loop] = []
        self.path: tuple[int, ...] = ()
        self.passes: tuple[int, ...] = ()
        self.numbers: dict[tuple[tuple[int, ...], int], int] = {}
        self.begun = [0]  # loops begun in the current pass, for each loop around
        self.own: dict[str, Rows] = {}
        self.whole: dict[str, Rows] = {}

    def rows(self, axis: str) -> Rows:
        if axis not in self.kernel.grid:
            raise ProgramError(f"{axis!r} is no grid axis of kernel {self.kernel.name}")
        return self.own.setdefault(axis, Rows(axis, self.kernel.tile(axis), "own"))

    def all(self, axis: str) -> Rows:
        return self.whole.setdefault(axis, Rows(axis, self.kernel.padded(axis), "all"))

    def pages(self, rows: Rows) -> Rows:
        each = self.kernel.page_rows
        if not each:
            raise ProgramError(f"no tensor of kernel {self.kernel.name} lies in pages")
        aligned = rows.tile % each == 0 or each % rows.tile == 0
        most = -(-rows.tile // each) if aligned else (rows.tile - 2) // each + 2
        return Rows("page", most, rows.owner)

    def loop(
        self, axis: str, seen_from: Rows | None = None, within: Rows | None = None
    ) -> Iterator[Rows]:
        # The second pass of an outer loop meets its inner loops again, in the same order.
        key = (self.path, self.begun[-1])
        self.begun[-1] += 1
        number = self.numbers.setdefault(key, len(self.loops))
        if number == len(self.loops):
            self.loops.append(Loop(number, axis, seen_from, self.path, within))
        outer = self.path, self.passes
        for turn in (0, 1):
            self.path, self.passes = (*outer[0], number), (*outer[1], turn)
            self.begun.append(0)
            yield Rows(axis, self.kernel.tile(axis), number)
            self.begun.pop()
        self.path, self.passes = outer

    def emit(
        self,
        kind: str,
        down: Rows | None,
        across: Rows | None,
        *,
        inputs: tuple[Tile, ...] = (),
        **fields: object,
    ) -> _Tile:
        taken = [self._use(tile) for tile in inputs]
        op = Op(
            index=len(self.ops),
            kind=kind,
            inputs=tuple(tile.op for tile in taken),
            shape=(_extent(down), _extent(across)),
            axes=(_axis(down), _axis(across)),
            path=self.path,
            iteration=max(self.passes, default=0),
            **fields,  # type: ignore[arg-type]  # fields of Op, typed by its callers below
        )
        self.ops.append(op)
        return _Tile(self, op.index, down, across)

    def _use(self, tile: Tile) -> _Tile:
        assert isinstance(tile, _Tile)
        op = self.ops[tile.op]
        if op.kind == "load" and op.used_in is None:
            op.used_in = self.path
        return tile

    def elementwise(self, kind: str, tile: _Tile, others: tuple[Tile | float, ...]) -> _Tile:
        tiles = (tile, *(other for other in others if isinstance(other, _Tile)))
        # The widest operand gives the shape: a row vector is broadcast over columns.
        wide = next((t for t in tiles if t.col_axis is not None), tile)
        return self.emit(kind, wide.row_axis, wide.col_axis, inputs=tiles)

    def dtype(self, tensor: str) -> str:
        return self.kernel.tensor(tensor).dtype

    def load(self, tensor: str, *rows: Rows, through: Tile | None = None) -> Tile:
        bound, down, across = self._bind(tensor, rows)
        declared = self.kernel.tensor(tensor)
        if (through is not None) != bool(declared.page_rows):
            raise ProgramError(f"{tensor} lies in pages or is contiguous, and is loaded otherwise")
        entries = () if through is None else (through,)
        return self.emit(
            "load", down, across, inputs=entries, name=tensor, rows=bound, dtype=declared.dtype
        )

    def store(self, tensor: str, tile: Tile, *rows: Rows) -> None:
        declared = self.kernel.tensor(tensor).dtype
        given = self.ops[tile.op].dtype if isinstance(tile, _Tile) else ""
        if given != declared:
            raise ProgramError(f"{tensor} is declared {declared} and a {given} tile is stored")
        self._emit_write("store", tensor, tile, rows)

    def reduce(self, tensor: str, tile: Tile, *rows: Rows) -> None:
        declared = self.kernel.tensor(tensor).dtype
        given = self.ops[tile.op].dtype if isinstance(tile, _Tile) else ""
        if (given, declared) != ("fp32", "fp32"):
            raise ProgramError(
                f"{tensor} is declared {declared} and a {given} tile is reduced into it; "
                "both must be fp32"
            )
        self._emit_write("reduce", tensor, tile, rows)

    def _emit_write(self, kind: str, tensor: str, tile: Tile, rows: tuple[Rows, ...]) -> None:
        bound, down, across = self._bind(tensor, rows)
        dtype = self.kernel.tensor(tensor).dtype
        self.emit(kind, down, across, inputs=(tile,), name=tensor, rows=bound, dtype=dtype)

    def _bind(self, name: str, rows: tuple[Rows, ...]) -> tuple[dict[str, Rows], Rows, Rows | None]:
        """The range of each axis that the block's coordinates do not give; the tile's sides."""
        given = {r.axis: r for r in rows}
        axes = self.kernel.tensor(name).axes
        for axis in given:
            if axis not in axes:
                raise ProgramError(f"tensor {name} has no axis {axis!r}, only {', '.join(axes)}")
        bound = {
            axis: given[axis] if axis in given else self.all(axis)
            for axis in axes
            if axis in given or axis not in ONE_BY_ONE
        }
        sides = [bound[axis] for axis in axes if axis not in ONE_BY_ONE]
        return bound, sides[0], sides[1] if len(sides) > 1 else None

    def full(
        self,
        value: float,  # noqa: ARG002 - what it starts from changes neither bytes nor time
        rows: Rows,
        cols: Rows | None = None,
    ) -> Tile:
        return self.emit("full", rows, cols)

    def matmul(self, a: Tile, b: Tile, acc: Tile | None = None, *, name: str) -> Tile:
        assert isinstance(a, _Tile)
        assert isinstance(b, _Tile)
        if a.col_axis is None or b.row_axis is None or a.col_axis.axis != b.row_axis.axis:
            raise ProgramError(
                f"matmul {name} contracts {_axis(a.col_axis)!r} with {_axis(b.row_axis)!r}"
            )
        left, right = self.ops[a.op].dtype, self.ops[b.op].dtype
        if left != right:
            raise ProgramError(f"matmul {name} multiplies {left} by {right}; cast one of them")
        inputs: tuple[Tile, ...] = (a, b) if acc is None else (a, b, acc)
        return self.emit(
            "matmul",
            a.row_axis,
            b.col_axis,
            inputs=inputs,
            name=name,
            contraction=a.col_axis.tile,
            contracted_axis=a.col_axis.axis,
        )

    def mask(self, scores: Tile) -> Tile:
        assert isinstance(scores, _Tile)
        return self.emit("mask", scores.row_axis, scores.col_axis, inputs=(scores,))

    def dropout(self, scores: Tile) -> Tile:
        assert isinstance(scores, _Tile)
        if self.kernel.problem.dropout == 0:
            return scores
        if (_axis(scores.row_axis), _axis(scores.col_axis)) != ("q", "k"):
            raise ProgramError("dropout takes queries x keys, as P is")
        return self.emit("dropout", scores.row_axis, scores.col_axis, inputs=(scores,))


def _extent(side: Rows | None) -> int:
    return 1 if side is None else side.tile


def _axis(side: Rows | None) -> str:
    return "" if side is None else side.axis


def record(kernel: Kernel) -> Record:
    """Records what one block of `kernel` does.

    Raises:
        ProgramError: the program breaks a rule: an undeclared tensor, a dtype mismatch, a
            tile loaded and never used, a tensor reduced into and loaded or stored too, a loop
            left early, a branch on rows or values.
    """
    recorder = _Recorder(kernel)
    kernel.program(recorder, kernel.problem)
    if recorder.path:
        raise ProgramError(f"kernel {kernel.name} leaves a loop before its last tile")
    for op in recorder.ops:
        if op.kind == "load" and op.used_in is None:
            raise ProgramError(f"kernel {kernel.name} loads a tile of {op.name} and never uses it")
    reduced = {op.name for op in recorder.ops if op.kind == "reduce"}
    for op in recorder.ops:
        if op.kind in ("load", "store") and op.name in reduced:
            raise ProgramError(
                f"kernel {kernel.name} reduces into {op.name} and {op.kind}s it too: "
                "what it finds there depends on the order of blocks"
            )
    return Record(kernel, tuple(recorder.ops), tuple(recorder.loops))


cached_record = lru_cache(maxsize=256)(record)
