"""The body of a loop that is being lowered: its operations, and how warps divide their tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasim.hardware.gpu import WARP
from fasim.problem import DTYPE_BYTES
from fasim.schedules.record import Op, Record
from fasim.schedules.residency import staged_operands
from fasim.simulator.lowering.instructions import REDUCTIONS, Arithmetic, instruction_cost

if TYPE_CHECKING:
    from fasim.hardware import Gpu


class LoopBody:
    """One iteration of a recorded loop, for one mapping on one GPU.

    Attributes:
        ops: the operations of the iteration, in program order. They are those of the last
            recorded pass, which shows what the loop carries.
        masked: whether the causal mask cuts through the tiles of this iteration.
        users: the operations of the iteration that take a result, by its index.
    """

    def __init__(self, record: Record, gpu: Gpu, path: tuple[int, ...], *, masked: bool) -> None:
        self.record, self.gpu, self.masked = record, gpu, masked
        self.mapping = record.kernel.mapping
        passes = [op for op in record.ops if op.path == path]
        # Each loop is recorded twice, so that a loop inside another is there four times.
        self.ops = passes[-(len(passes) // 2 ** len(path)) :]
        self.users: dict[int, list[Op]] = {}
        for op in self.ops:
            for index in op.inputs:
                self.users.setdefault(index, []).append(op)
        self._fused = self._multiply_adds()
        self._staged = {op.index for op in staged_operands(record)}

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

    def is_fused(self, op: Op) -> bool:
        """Whether a product is part of the addition that takes it."""
        return op.index in self._fused

    def _multiply_adds(self) -> set[int]:
        """Products whose only use is an addition or subtraction: they become one FFMA with it."""
        fused: set[int] = set()
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

    def is_staged(self, op: Op) -> bool:
        """Whether a computed tile passes through shared memory into a product."""
        return op.index in self._staged

    def tile_bytes(self, op: Op) -> int:
        """Bytes of the tile that the block loads or stores."""
        return op.elements * DTYPE_BYTES[op.dtype]

    def warp_bytes(self, op: Op) -> float:
        """One warp's share of the tile that the block loads or stores."""
        return self.tile_bytes(op) / self.mapping.warps

    def wide(self, op: Op) -> tuple[int, int]:
        """Rows and columns of the elements an operation works on."""
        return self.record.ops[op.inputs[0]].shape if op.kind in REDUCTIONS else op.shape

    def per_thread(self, shape: tuple[int, int]) -> float:
        """Elements of a tile that one thread works on.

        A fragment's row lies across the four threads of a quad, eight rows in a warp: each of
        the four holds the row's single values.
        """
        rows, columns = shape
        if columns == 1:
            warp_rows, _ = self.mapping.warp_tile(shape)
            return max(1.0, warp_rows / 8)
        return rows * columns / (WARP * self.mapping.warps)
