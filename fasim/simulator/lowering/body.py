"""The body of a loop that is being lowered: its operations, and how warps divide their tiles."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING

from fasim.hardware.gpu import LDMATRIX_BYTES, WARP
from fasim.schedules.language import ELEMENT_BYTES
from fasim.schedules.record import Op, Record
from fasim.schedules.residency import staged_operands
from fasim.simulator.lowering.instructions import (
    REDUCTIONS,
    Arithmetic,
    instruction_cost,
    is_elementwise,
)
from fasim.simulator.mechanisms import is_on

if TYPE_CHECKING:
    from fasim.hardware import Gpu


class LoopBody:
    """One iteration of a recorded loop, for one mapping on one GPU.

    Attributes:
        ops: the operations of the iteration, in the order of issue: that of the program, with
            delayed products behind the next tile's first, and others right behind those that
            the mapping issues them beside. They are those of the last recorded pass, which
            shows what the loop carries.
        carried: what the iteration before made, by the index it has there, as this one's.
        late_cycles: of each tensor, by how much a load takes longer than one that hits L2.
        masked: whether the mask cuts through the tiles of this iteration.
        users: the operations of the iteration that take a result, by its index.
    """

    def __init__(
        self,
        record: Record,
        gpu: Gpu,
        path: tuple[int, ...],
        late_cycles: Mapping[str, float] | None = None,
        *,
        masked: bool,
    ) -> None:
        self.record, self.gpu, self.masked = record, gpu, masked
        self.late_cycles = late_cycles or {}
        self.mapping = record.kernel.mapping
        passes = [op for op in record.ops if op.path == path]
        # Each loop is recorded twice, so that a loop inside another is there four times.
        count = len(passes) // 2 ** len(path)
        before, self.ops = passes[-2 * count : -count], passes[-count:]
        self.carried = {was.index: op for was, op in zip(before, self.ops, strict=True)}
        self._inside = {op.index for op in self.ops}
        self._delayed = [
            op for op in self.ops if op.kind == "matmul" and op.name in self.mapping.delayed
        ]
        # Operands of delayed products stay where they are until these are done.
        self._operands = {index: op for op in self._delayed for index in op.inputs}
        self._delay()
        self._advance()
        self.users: dict[int, list[Op]] = {}
        for op in self.ops:
            for index in op.inputs:
                self.users.setdefault(index, []).append(op)
        self._fused = self._multiply_adds()
        self._lies_across = any(
            op.kind == "matmul" and op.name in self.mapping.transposed_matmuls
            for elementwise in self.ops
            if is_elementwise(elementwise)
            for op in self.sources(elementwise)
        )
        self._staged = {op.index for op in staged_operands(record)}

    def _delay(self) -> None:
        """Moves delayed products behind the first of the others: that of the next tile."""
        if not self._delayed:
            return
        rest = [op for op in self.ops if op not in self._delayed]
        first = next((i for i, op in enumerate(rest) if op.kind == "matmul"), None)
        if first is None:
            raise ValueError(
                f"kernel {self.record.kernel.name}: its mapping delays every matmul of the loop, "
                "and leaves none to issue them beside"
            )
        self.ops = rest[: first + 1] + self._delayed + rest[first + 1 :]

    def _advance(self) -> None:
        """Moves products right behind those that the mapping issues them beside."""
        for name, ahead in self.mapping.beside:
            places = {op.name: n for n, op in enumerate(self.ops) if op.kind == "matmul"}
            begin, end = places[ahead] + 1, places[name]
            between = {op.index for op in self.ops[begin:end]}
            product = self.ops[end]
            if between & set(product.inputs):
                raise ValueError(
                    f"kernel {self.record.kernel.name}: its mapping issues {name} right behind "
                    f"{ahead}, and {name} takes what is computed in between"
                )
            self.ops = [*self.ops[:begin], product, *self.ops[begin:end], *self.ops[end + 1 :]]

    def is_delayed(self, op: Op) -> bool:
        """Whether a product is issued an iteration late."""
        return op in self._delayed

    def is_beside(self, op: Op) -> bool:
        """Whether a product is issued beside another, ahead of what the program does first."""
        return op.kind == "matmul" and op.name in dict(self.mapping.beside)

    def awaited_product(self, op: Op) -> Op | None:
        """The delayed product an operation must wait for: it writes what that one reads."""
        return self._operands.get(op.index)

    def asynchronous(self, op: Op) -> bool:
        """Whether an operation is a product that runs beside the warp."""
        return op.kind == "matmul" and self.mapping.matrix_unit == "wgmma"

    def leaves_products_in_flight(self) -> bool:
        """Whether an iteration ends before its last product does."""
        last = next((op for op in reversed(self.ops) if op.kind == "matmul"), None)
        return last is not None and self.asynchronous(last) and not self.used(last)

    def sources(self, op: Op) -> list[Op]:
        """The operations an operation takes its inputs from."""
        return [self.record.ops[index] for index in op.inputs]

    def used(self, op: Op) -> list[Op]:
        """The operations of this iteration that take the result of `op`."""
        return self.users.get(op.index, [])

    def cost(self, op: Op) -> tuple[Arithmetic, float]:
        """Pipe and instructions per element; none for a product that is fused."""
        pipe, per_element = instruction_cost(op, self.record, self.masked)
        return pipe, 0.0 if self.is_fused(op) else per_element

    def is_guarded(self, op: Op) -> bool:
        """Whether an exponential keeps denormals: halved below their threshold, then squared."""
        return op.kind == "exp2" and not self.mapping.fast_math

    def is_fused(self, op: Op) -> bool:
        """Whether a product is part of the addition that takes it."""
        return op.index in self._fused

    def _multiply_adds(self) -> set[int]:
        """Products whose only use is an addition or subtraction: they become one FFMA with it."""
        fused: set[int] = set()
        if not self.mapping.fast_math:
            return fused
        for op in self.ops:
            users = self.used(op)
            if op.kind == "mul" and len(users) == 1 and users[0].kind in ("add", "sub"):
                taken = any(index in fused for index in users[0].inputs)
                if users[0].shape == op.shape and not taken:
                    fused.add(op.index)
        return fused

    # Where tiles are, and who works on them.

    def is_buffered(self, op: Op) -> bool:
        """Whether this is a load into shared memory."""
        return op.kind == "load" and self.mapping.buffer_count(op.name) > 0

    def streamed_operands(self, product: Op) -> list[Op]:
        """The operands of a product that it loads in pieces, for itself alone."""
        if not self.mapping.product_step:
            return []
        sources = self.sources(product)[:2]
        return [op for op in sources if op.kind == "load" and op.index in self._inside]

    def is_streamed(self, op: Op) -> bool:
        """Whether this is a load that a product takes in pieces."""
        users = [user for user in self.used(op) if user.kind == "matmul"]
        return any(op in self.streamed_operands(user) for user in users)

    def is_table(self, op: Op) -> bool:
        """Whether a load brings nothing but entries of a table, which tell where others lie."""
        kinds = {user.kind for user in self.used(op)}
        return op.kind == "load" and kinds == {"load"}

    def lies_elsewhere(self, source: Op, op: Op) -> bool:
        """Whether other lanes hold a value than those that compute `op` with it.

        It comes of a product whose result lies transposed, and meets one that does not.
        """
        apart = set(self.mapping.lies_transposed)
        if not apart or not apart & self._products(source):
            return False
        others = [other for other in self.sources(op) if other is not source]
        return any(self._products(other) - apart for other in others)

    def _products(self, op: Op) -> set[str]:
        """The products that a tile of this iteration is computed from, element by element."""
        if op.kind == "matmul":
            return {op.name}
        if op.index not in self._inside or not is_elementwise(op):
            return set()
        return set().union(*(self._products(source) for source in self.sources(op)))

    def is_staged(self, op: Op) -> bool:
        """Whether a computed tile passes through shared memory into a product."""
        return op.index in self._staged

    def tile_bytes(self, op: Op) -> int:
        """Bytes of the tile that the block loads or stores."""
        return op.elements * ELEMENT_BYTES[op.dtype]

    def warp_bytes(self, op: Op) -> float:
        """One warp's share of the tile that the block loads or stores."""
        return self.tile_bytes(op) / self.mapping.warps

    def fetch(self, load: Op) -> tuple[float, float]:
        """Bytes of shared memory's data path and instructions, to read a tile into registers.

        Values of rows come in loads of their own, or two by two where they lie side by side in a
        thread; the lanes of a warp share them, and a load takes a cycle.
        """
        if load.shape[1] > 1:
            moved = self.warp_bytes(load)
            return moved, moved / LDMATRIX_BYTES
        loads = ceil(self.per_thread(load.shape) / (2 if self._lies_across else 1))
        return loads * self.gpu.shared_memory.bytes_per_clock, loads

    def wide(self, op: Op) -> tuple[int, int]:
        """Rows and columns of the elements an operation works on."""
        return self.record.ops[op.inputs[0]].shape if op.kind in REDUCTIONS else op.shape

    def warps_across(self, op: Op) -> int:
        """Warps that share a row of a value."""
        return self._warps_over(op)[1]

    def contraction_warps(self, product: Op) -> int:
        """Warps that each have a partial result of a product: they divide what it contracts.

        Its left operand stays in the registers of the warps that made it.
        """
        if self.mapping.register_operand(product.name) != 0:
            return 1
        left = self.sources(product)[0]
        down, across = self._warps_over(left)
        return across if left.axes[0] == product.axes[0] else down  # as it lies, or transposed

    def _warps_over(self, op: Op) -> tuple[int, int]:
        """Rows × columns of warps over a value: those of the product it was made from, in place."""
        if not is_on("exchange"):
            return 1, 1
        while op.kind != "matmul":
            like = [source for source in self.sources(op) if source.shape == op.shape]
            if not like:
                return 1, 1
            op = like[0]
        return self.mapping.grid_of(op.name)

    def per_thread(self, shape: tuple[int, int]) -> float:
        """Elements of a tile that one thread works on.

        A fragment's row lies across the four threads of a quad, eight rows in a warp: each of
        the four holds the row's single values. In a transposed fragment rows are columns, of
        which a thread has two of each eight.
        """
        rows, columns = shape
        if columns == 1:
            warp_rows, _ = self.mapping.warp_tile(shape)
            return max(1.0, warp_rows / (4 if self._lies_across else 8))
        return rows * columns / (WARP * self.mapping.warps)
