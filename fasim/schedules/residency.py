"""What a block of a kernel occupies on an SM: shared memory, registers, threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fasim.problem import DTYPE_BYTES
from fasim.schedules.language import Tensor
from fasim.schedules.mapping import Mapping
from fasim.schedules.record import Op, Record

if TYPE_CHECKING:
    from fasim.hardware import Gpu

# Registers of a tensor-core kernel besides its accumulators: fragments of both operands,
# addresses, loop state. Chosen to agree with compiled FlashAttention-2 kernels, and so no evidence
# for itself: 34 of 35 (kernel, GPU) pairs come within 16 registers, and a cap of 255 hides most.
TENSOR_KERNEL_REGISTERS = 88
# wgmma takes its operands from shared memory: no fragments, and TMA needs no addresses.
WGMMA_KERNEL_REGISTERS = 40
# Warps that only compute, beside producers: row_max, row_sum, loop state. Chosen so that the rule
# for P's place gives FlashAttention-3's tile table, and so no evidence for itself.
SPECIALISED_KERNEL_REGISTERS = 24
# A streaming kernel: addresses and loop state besides the elements it holds.
STREAMING_KERNEL_REGISTERS = 24
REGISTER_ALLOCATION = 8  # registers a thread are allotted in eights (CUDA occupancy rules)
REGISTER_BYTES = 4
# A thread's, and a block's: CUDA C++ Programming Guide, technical specifications, from compute
# capability 5.0 on.
MAX_REGISTERS = 255
BLOCK_REGISTERS = 65536


@dataclass(frozen=True, slots=True)
class BlockUse:
    """What one block asks of an SM.

    Attributes:
        shared_memory_bytes: buffers × full tiles, over the tensors that pass through it, and
            the computed tiles that products take from it.
        registers_per_thread: as allotted: compiled or estimated, at most what a thread can have,
            in eights.
        spilled_registers: of the estimate, those over what a thread can have (255; its share of
            a block's; what setmaxnreg leaves it): they live in local memory.
        spilled_in_loop: of those, what every iteration of the main loop moves: as compiled, or
            the accumulators. What compilers spill first are addresses and other values of
            prologue and epilogue.
    """

    threads: int
    shared_memory_bytes: int
    registers_per_thread: int
    spilled_registers: int = 0
    spilled_in_loop: int = 0


def spills_fit_l1(use: BlockUse, gpu: Gpu) -> bool:
    """Whether L1 holds what the resident blocks' loops spill: it has what shared memory leaves.

    A loop comes round to each spilled register once an iteration: where not all fit, none is
    still there. L1 is taken as large enough on a GPU that does not say.
    """
    unified = gpu.shared_memory.unified_bytes
    if unified is None:
        return True
    blocks = residency(use, gpu).blocks_per_sm
    shared = use.shared_memory_bytes + gpu.shared_memory.reserved_block_bytes
    spilled = use.spilled_in_loop * REGISTER_BYTES * use.threads
    return blocks * (shared + spilled) <= unified


@dataclass(frozen=True, slots=True)
class Residency:
    """How many blocks an SM holds, and what stops it from holding one more.

    Attributes:
        limiter: `shared memory`, `registers`, `warps` or `block slots`.
    """

    blocks_per_sm: int
    limiter: str


def block_use(record: Record) -> BlockUse:
    """What a block of the recorded kernel occupies."""
    kernel, mapping = record.kernel, record.kernel.mapping
    shared = sum(_tensor_bytes(record, tensor) for tensor in kernel.tensors)
    shared += sum(
        buffers * record.ops[index].elements * DTYPE_BYTES[record.ops[index].dtype]
        for index, buffers in _staged_buffers(record).items()
        if record.ops[index].iteration == 0
    )
    besides, accumulators = _estimate_registers(record)
    registers = mapping.registers_per_thread or besides + accumulators
    most = _most_registers(mapping)
    spilled = max(0, registers - most)
    if mapping.computing_registers is not None:
        spilled = max(0, besides + accumulators - mapping.computing_registers)
    # A streaming kernel goes over its elements once: it has no loop to spill in.
    multiplies = any(op.kind == "matmul" for op in record.ops)
    allotted = -(-min(registers, most) // REGISTER_ALLOCATION) * REGISTER_ALLOCATION
    in_loop = max(0, spilled - besides) if multiplies else 0
    if mapping.spilled_in_loop is not None:
        in_loop = mapping.spilled_in_loop
    return BlockUse(
        threads=mapping.threads,
        shared_memory_bytes=mapping.shared_memory_bytes or shared,
        registers_per_thread=allotted,
        spilled_registers=max(spilled, in_loop),
        spilled_in_loop=in_loop,
    )


def _most_registers(mapping: Mapping) -> int:
    """Registers that a compiler may give a thread: it knows how many share an SM's."""
    share = BLOCK_REGISTERS // (mapping.threads * mapping.least_blocks)
    return min(MAX_REGISTERS, share // REGISTER_ALLOCATION * REGISTER_ALLOCATION)


def staged_operands(record: Record) -> list[Op]:
    """Computed tiles that a product takes from shared memory, as it cannot from registers.

    A left operand stays in registers where the mapping says so; any other lies spread over
    warps that do not need it, or transposed.
    """
    return [record.ops[index] for index in _staged_buffers(record)]


def _staged_buffers(record: Record) -> dict[int, int]:
    """The same by index, with the shared-memory buffers of each."""
    staged: dict[int, int] = {}
    mapping = record.kernel.mapping
    for product in record.ops:
        if product.kind != "matmul":
            continue
        stays = mapping.register_operand(product.name)
        for side, index in enumerate(product.inputs[:2]):
            if side != stays and record.ops[index].kind != "load":
                buffers = dict(mapping.operand_buffers).get(product.name, 1)
                staged[index] = max(buffers, staged.get(index, 0))
    return staged


def _tensor_bytes(record: Record, tensor: Tensor) -> int:
    """Shared memory of a tensor's buffers; a stored one's tile may share a loaded one's."""
    mapping = record.kernel.mapping
    if tensor.name in mapping.bulk_reduced:
        return _tile_bytes(record, "reduce", tensor)
    buffers = mapping.buffer_count(tensor.name)
    if not buffers:
        return 0
    own = buffers * _tile_bytes(record, "load", tensor)
    staged = [stored for stored, loaded in mapping.staged_in if loaded == tensor.name]
    leaving = (_tile_bytes(record, "store", record.kernel.tensor(name)) for name in staged)
    transposed = own if tensor.name in mapping.transposed else 0
    return max((own, *leaving)) + transposed


def _tile_bytes(record: Record, kind: str, tensor: Tensor) -> int:
    """Bytes of the largest full tile of a tensor that a block loads, stores or adds to."""
    ops = (op for op in record.once() if op.kind == kind and op.name == tensor.name)
    return max((op.elements for op in ops), default=0) * tensor.element_bytes


def _estimate_registers(record: Record) -> tuple[int, int]:
    """Registers of a thread besides its accumulators or elements, and for those."""
    threads = 32 * record.kernel.mapping.warps
    accumulators = _accumulators(record)
    if accumulators:
        asynchronous = record.kernel.mapping.matrix_unit == "wgmma"
        if record.kernel.mapping.producer_warps:
            return SPECIALISED_KERNEL_REGISTERS, -(-accumulators // threads)
        besides = WGMMA_KERNEL_REGISTERS if asynchronous else TENSOR_KERNEL_REGISTERS
        return besides, -(-accumulators // threads)
    # What a loop carries begins as a constant, and lives beside what the loop loads.
    inside = {index for op in record.once() if op.path for index in op.inputs}
    carried = [record.ops[index] for index in inside if record.ops[index].kind == "full"]
    widest = max(record.once(), key=lambda op: op.elements)
    held = sum(-(-op.elements // threads) for op in (*carried, widest))
    return STREAMING_KERNEL_REGISTERS, held


def _accumulators(record: Record) -> int:
    """Elements of the products' results that live at one time, at most.

    One that a loop carries lives throughout; another until the last FP32 operation on it, or on
    what such operations make of it in place.
    """
    matmuls = [op for op in record.once() if op.kind == "matmul"]
    carried = {op.name: op.elements for op in matmuls if len(op.inputs) > 2}
    ends: dict[int, int] = {}  # product → the last operation on its result
    products: dict[int, set[int]] = {}  # value → products that it stands in the place of
    for op in record.once():
        taken = set().union(*(products.get(index, set()) for index in op.inputs))
        ends |= dict.fromkeys(taken, op.index)
        if op.kind == "matmul" and op.name not in carried:
            ends[op.index], products[op.index] = op.index, {op.index}
        elif op.kind != "matmul" and op.dtype == "fp32":
            products[op.index] = {n for n in taken if record.ops[n].shape == op.shape}
    passing = max(
        (
            sum(record.ops[n].elements for n, end in ends.items() if n <= start < end)
            for start in ends
        ),
        default=0,
    )
    return sum(carried.values()) + passing


def residency(use: BlockUse, gpu: Gpu) -> Residency:
    """Blocks an SM can hold: the least of shared memory, registers, warps and block slots."""
    warps = -(-use.threads // 32)
    shared_bytes = use.shared_memory_bytes + gpu.shared_memory.reserved_block_bytes
    limits = {
        "shared memory": gpu.shared_memory.capacity_bytes // max(1, shared_bytes),
        "registers": gpu.sm.registers // (use.registers_per_thread * use.threads),
        "warps": gpu.sm.max_warps // warps,
        "block slots": gpu.sm.max_blocks,
    }
    limiter = min(limits, key=lambda name: limits[name])
    return Residency(limits[limiter], limiter)
