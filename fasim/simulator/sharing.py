"""Which blocks of a grid share a part of a tensor, and how far apart in the order of issue.

Query heads that share keys are neighbours in a head-first grid, and the whole batch apart in
FlashAttention-2's, whose grid runs over row tiles, then batch, then heads.
"""

from __future__ import annotations

from dataclasses import dataclass

from fasim.readings.traffic import ACCESSES
from fasim.schedules.language import Tensor
from fasim.schedules.record import Op, Record


@dataclass(frozen=True, slots=True)
class Sharing:
    """How the blocks of a grid divide a tensor.

    Attributes:
        part_bytes: distinct bytes that one block touches.
        parts: how many such parts there are.
        near: blocks in a row that touch the same part.
        far: how often such a row comes again.
        distance: blocks issued from one to the next.
    """

    part_bytes: float
    parts: float
    near: float
    far: float
    distance: float

    @property
    def blocks(self) -> float:
        """Blocks that touch the same part."""
        return self.near * self.far

    def together(self, blocks: float) -> float:
        """Rows of one part among so many blocks issued one after another."""
        return min(self.far, max(1.0, blocks / self.distance))

    def touched_bytes(self, blocks: float) -> float:
        """Distinct bytes of the tensor that so many blocks touch, issued one after another."""
        parts = blocks / (self.near * self.together(blocks))
        return self.part_bytes * min(self.parts, max(1.0, parts))


def sharing(record: Record, tensor: Tensor) -> Sharing:
    """How the blocks of a kernel divide one of its tensors, in the order of its grid.

    Blocks issued longest first go by sections of heads that fit L2: all that share are near.
    """
    kernel = record.kernel
    near = far = parts = issued = 1.0
    distance = float(kernel.blocks)
    for axis in kernel.grid:
        total = kernel.tile_count(axis)
        distinct = _parts_along(record, tensor, axis)
        together = total / distinct
        if parts == 1 or kernel.mapping.block_order == "longest-first":
            near *= together
        elif together > 1:
            far, distance = far * together, min(distance, issued)
        parts, issued = parts * distinct, issued * total
    part_bytes = tensor.bytes(kernel.lengths) / parts
    return Sharing(part_bytes, parts, near, far, distance)


def accesses(record: Record, name: str) -> list[Op]:
    """A tensor's loads, stores and reductions."""
    return [op for op in record.once() if op.name == name and op.kind in ACCESSES]


def _parts_along(record: Record, tensor: Tensor, axis: str) -> int:
    """Parts of a tensor that the blocks along an axis of the grid tell apart."""
    kernel = record.kernel
    if axis == "head" and axis not in tensor.axes and "kv_head" in tensor.axes:
        # Through its head a block keeps to one of kv_heads, or of query heads by group.
        return kernel.lengths["head" if "group" in tensor.axes else "kv_head"]
    if axis not in tensor.axes:
        return kernel.tile_count(axis) if _is_dealt_out(record, tensor, axis) else 1
    return kernel.tile_count(axis) if _keeps_to_its_own(record, tensor, axis) else 1


def _keeps_to_its_own(record: Record, tensor: Tensor, axis: str) -> bool:
    """Whether a block keeps to its own tile of an axis, rather than loop over all of it."""
    if axis in ("batch", "head", "kv_head"):
        return True
    return any(
        axis in op.rows and op.rows[axis].owner == "own" for op in accesses(record, tensor.name)
    )


def _is_dealt_out(record: Record, tensor: Tensor, axis: str) -> bool:
    """Whether the blocks along an axis divide a tensor: parts of the keys, rows in turns."""
    return all(
        any(
            isinstance(rows.owner, int)
            and (within := record.loops[rows.owner].within) is not None
            and within.axis == axis
            for rows in op.rows.values()
        )
        for op in accesses(record, tensor.name)
    )
