"""The traffic reading: exact bytes and operations, from the record alone.

Two levels are exact (architecture page, *Words*): `compulsory`, every distinct byte a kernel
must take in or give out, once; `global`, what the program asks of global memory, tile re-reads
included, no cache anywhere. The levels below, `l2` and `dram`, come only from simulation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from fasim.readings.counting import Counter
from fasim.schedules.language import Kernel
from fasim.schedules.record import Op, Record, cached_record
from fasim.schedules.visits import visible_keys, visible_rows

ACCESSES = ("load", "store", "reduce")
SFU_OPS = ("exp2", "log2", "inverse")
FP32_OPS = ("add", "sub", "mul", "maximum", "row_max", "row_sum")


@dataclass(slots=True)
class Access:
    """Bytes of one tensor at one level: loaded, stored, and added to atomically."""

    read_bytes: int = 0
    write_bytes: int = 0
    reduce_bytes: int = 0

    def add(self, other: Access) -> None:
        """Adds the bytes of another tensor or kernel to these."""
        self.read_bytes += other.read_bytes
        self.write_bytes += other.write_bytes
        self.reduce_bytes += other.reduce_bytes

    @property
    def total_bytes(self) -> int:
        """Bytes in either direction."""
        return self.read_bytes + self.write_bytes + self.reduce_bytes


Level = dict[str, Access]


@dataclass(frozen=True, slots=True)
class Flops:
    """Operations of a kernel or a chain.

    Attributes:
        tensor: executed on the matrix unit, full tiles, masked elements included.
        tensor_useful: of those, the ones on elements inside the problem and unmasked.
        sfu: special functions (exp2, log2, reciprocal), one an element.
        fp32: FP32 additions, multiplications and comparisons, one an element.
    """

    tensor: int
    tensor_useful: int
    sfu: int
    fp32: int

    def __add__(self, other: Flops) -> Flops:
        return Flops(
            self.tensor + other.tensor,
            self.tensor_useful + other.tensor_useful,
            self.sfu + other.sfu,
            self.fp32 + other.fp32,
        )


@dataclass(frozen=True)
class KernelTraffic:
    """Bytes by level and tensor, and operations, of the kernel of that name."""

    kernel: str
    compulsory: Level
    global_: Level
    flops: Flops


@dataclass(frozen=True)
class Traffic:
    """Bytes and operations of a chain: kernel by kernel, and their sums."""

    kernels: tuple[KernelTraffic, ...]
    compulsory: Level = field(init=False)
    global_: Level = field(init=False)
    flops: Flops = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "compulsory", merge(k.compulsory for k in self.kernels))
        object.__setattr__(self, "global_", merge(k.global_ for k in self.kernels))
        total = Flops(0, 0, 0, 0)
        for kernel in self.kernels:
            total = total + kernel.flops
        object.__setattr__(self, "flops", total)


def merge(levels: Iterable[Level]) -> Level:
    """The sum of several kernels' bytes at one level, by tensor."""
    merged: Level = {}
    for level in levels:
        for name, access in level.items():
            merged.setdefault(name, Access()).add(access)
    return merged


def total(level: Level) -> Access:
    """The sum over tensors."""
    result = Access()
    for access in level.values():
        result.add(access)
    return result


def traffic(kernels: tuple[Kernel, ...]) -> Traffic:
    """Bytes and operations of a chain, exact, at the compulsory and the global level."""
    return Traffic(tuple(_kernel_traffic(cached_record(kernel)) for kernel in kernels))


def _kernel_traffic(record: Record) -> KernelTraffic:
    counter = Counter(record)
    accesses = [op for op in record.once() if op.kind in ACCESSES]
    global_: Level = {}
    for op in accesses:
        moved = counter.elements(op) * record.kernel.tensor(op.name).element_bytes
        access = global_.setdefault(op.name, Access())
        if op.kind == "load":
            access.read_bytes += moved
        elif op.kind == "reduce":
            access.reduce_bytes += moved
        else:
            access.write_bytes += moved
    return KernelTraffic(
        kernel=record.kernel.name,
        compulsory=_compulsory(record, accesses, counter),
        global_=global_,
        flops=_flops(record, counter),
    )


def _compulsory(record: Record, accesses: list[Op], counter: Counter) -> Level:
    """Distinct bytes in and out. What a kernel writes itself, and then reads, is not taken in."""
    kernel = record.kernel
    level: Level = {}
    for tensor in kernel.tensors:
        uses = [op for op in accesses if op.name == tensor.name]
        stores = [op for op in uses if op.kind == "store"]
        if stores and all(op.when is not None for op in stores):
            written = sum(counter.distinct(op) for op in stores) * tensor.element_bytes
            level[tensor.name] = Access(write_bytes=written)
        elif stores:
            masked = all(_under_mask(record, op) for op in stores)
            distinct = tensor.bytes(_visible(kernel) if masked else kernel.lengths)
            if masked and "split" in tensor.axes:  # each split has its own, of what it comes to
                distinct = sum(counter.elements(op) for op in stores) * tensor.element_bytes
            # What is there before the first store comes from outside.
            before = [op for op in uses if op.kind == "load" and op.index < stores[0].index]
            added = any(op.when is None for op in before)
            level[tensor.name] = Access(distinct if added else 0, distinct)
        elif uses:
            masked = all(_under_mask(record, op) for op in uses)
            distinct = tensor.bytes(_visible(kernel) if masked else kernel.lengths)
            reduced = any(op.kind == "reduce" for op in uses)
            level[tensor.name] = (
                Access(reduce_bytes=distinct) if reduced else Access(read_bytes=distinct)
            )
    return level


def _visible(kernel: Kernel) -> dict[str, int]:
    """Lengths of the axes, counting only queries that see a key, and keys that any sees."""
    lengths, seen = dict(kernel.lengths), visible_keys(kernel.problem)
    lengths["q"] = visible_rows(kernel.problem) * kernel.group
    if kernel.page_rows:
        lengths["page"] = len(kernel.pages(lengths["k"] - seen, lengths["k"]))
    lengths["k"] = seen
    return lengths


def _under_mask(record: Record, access: Op) -> bool:
    """Whether a load is first used, or a store or reduction done, in a loop over what rows see."""
    around = access.path if access.kind != "load" else access.used_in or ()
    return any(record.loops[number].seen_from is not None for number in around)


def _flops(record: Record, counter: Counter) -> Flops:
    tensor = useful = sfu = fp32 = 0
    for op in record.once():
        if op.kind == "matmul":
            tensor += counter.executions(op) * 2 * op.elements * op.contraction
            useful += _useful_matmul_flops(record, op)
        elif op.kind in SFU_OPS:
            sfu += counter.executions(op) * op.elements
        elif op.kind in FP32_OPS:
            # A row reduction works on its input's elements, not its result's.
            wide = record.ops[op.inputs[0]] if op.kind.startswith("row_") else op
            fp32 += counter.executions(op) * wide.elements
    return Flops(tensor, useful, sfu, fp32)


def _useful_matmul_flops(record: Record, op: Op) -> int:
    """Multiply-adds the problem needs of this product: every visible (q, k) pair once."""
    kernel = record.kernel
    axes = {*op.axes, op.contracted_axis}
    count = 2 * kernel.problem.batch * kernel.problem.heads
    if {"q", "k"} <= axes:
        count *= kernel.problem.visible_pairs
        axes -= {"q", "k"}
    for axis in axes:
        count *= kernel.lengths[axis]
    return count
