"""The numerics reading: runs a chain of kernels on NumPy arrays, poisoned.

Blocks run in random order, bytes are counted access by access, outputs start as NaN; the rules
a program must keep are in `global_memory.py` and `numpy_block.py`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from fasim.problem import Attention
from fasim.readings import layout
from fasim.readings.global_memory import GlobalTensor
from fasim.readings.numpy_block import NumpyBlock
from fasim.readings.reference import attention, dropped, softmax, visible
from fasim.readings.rounding import Array, round_to
from fasim.readings.traffic import Level
from fasim.schedules.chain import PAGE_TABLE
from fasim.schedules.language import Kernel, ProgramError, Tensor


@dataclass(frozen=True)
class NumericsResult:
    """What a chain left behind.

    Attributes:
        tensors: every tensor after the chain, as float32.
        kernels: bytes moved, kernel by kernel, by tensor.
        tensor_flops: of each kernel, executed on the matrix unit.
    """

    tensors: dict[str, Array]
    kernels: tuple[Level, ...]
    tensor_flops: tuple[int, ...]


def run(kernels: tuple[Kernel, ...], inputs: dict[str, Array], seed: int = 0) -> NumericsResult:
    """Runs a chain on `inputs` (float32, rounded to each tensor's dtype on the way in).

    Args:
        inputs: arrays of the tensors that no kernel of the chain writes first; shapes as
            declared: Q [batch, heads, seqlen_q, head_dim], K and V [batch, kv_heads, …]. Folding
            heads into rows and scattering keys over pages is done here.
        seed: of the order in which blocks run.

    Raises:
        ProgramError: a program broke a rule; the message names kernel, block and tensor.
        ValueError: an input of the wrong shape.
    """
    random = np.random.default_rng(seed)
    memory: dict[str, GlobalTensor] = {}
    folded: dict[str, int] = {}
    levels: list[Level] = []
    flops: list[int] = []
    for kernel in kernels:
        for tensor in kernel.tensors:
            if tensor.name not in memory:
                memory[tensor.name] = _allocate(kernel, tensor, inputs, seed)
            memory[tensor.name].begin_kernel()
            if kernel.group > 1 and layout.is_folded(tensor):
                folded[tensor.name] = kernel.group
        flops.append(_run_kernel(kernel, memory, random))
        accesses = {tensor.name: memory[tensor.name].access for tensor in kernel.tensors}
        levels.append({name: access for name, access in accesses.items() if access.total_bytes})
    tensors = {name: tensor.values for name, tensor in memory.items()}
    for name, group in folded.items():
        tensors[name] = layout.unfold(memory[name].tensor, tensors[name], group)
    return NumericsResult(tensors, tuple(levels), tuple(flops))


def _allocate(kernel: Kernel, tensor: Tensor, inputs: dict[str, Array], seed: int) -> GlobalTensor:
    """A tensor in global memory as the kernel lays it out; pages lie in random order."""
    values, lengths = inputs.get(tensor.name), kernel.lengths
    if tensor.page_rows or tensor.axes == PAGE_TABLE:
        table = layout.random_page_table(lengths["batch"], lengths["page"], seed)
        if tensor.axes == PAGE_TABLE:
            values = table
        elif values is not None:
            values = layout.scatter(tensor, values, table)
        if tensor.page_rows:
            tensor, lengths = layout.pool_of(kernel, tensor)
    elif kernel.group > 1 and values is not None and layout.is_folded(tensor):
        values = layout.fold(tensor, values, kernel.group)
    return GlobalTensor(tensor, lengths, values)


def _run_kernel(
    kernel: Kernel, memory: dict[str, GlobalTensor], random: np.random.Generator
) -> int:
    """Runs every block of a kernel, in random order; returns tensor FLOPs."""
    flops = 0
    places = list(itertools.product(*(range(tiles) for tiles in kernel.grid_shape)))
    for number in random.permutation(len(places)):
        coordinates = dict(zip(kernel.grid, places[number], strict=True))
        block = NumpyBlock(kernel, memory, int(number), coordinates)
        try:
            kernel.program(block, kernel.problem)
            block.finish()
        except ProgramError as fault:
            raise ProgramError(f"{block}: {fault}") from fault
        flops += block.tensor_flops
    return flops


def random_inputs(problem: Attention, seed: int = 0, size: float = 1.0) -> dict[str, Array]:
    """Normally distributed Q, K and V of the problem's shapes, rounded to its dtype.

    With them `mask` [seqlen_q, seqlen_k], 0 or −inf, for chains that add one; K_new and V_new
    [batch, seqlen_q, kv_heads·head_dim] for those that write the cache; where gradients are wanted
    dO, and Q_grad, K_grad, V_grad for chains that add to earlier ones; for backward alone all that
    a forward run may have saved.

    Args:
        size: standard deviation of the values.
    """
    random = np.random.default_rng(seed)
    keys = (problem.batch, problem.kv_heads, problem.seqlen_k, problem.head_dim)
    shapes = {
        "Q": (problem.batch, problem.heads, problem.seqlen_q, problem.head_dim),
        "K": keys,
        "V": keys,
        **dict.fromkeys(
            ("K_new", "V_new"),
            (problem.batch, problem.seqlen_q, problem.kv_heads * problem.head_dim),
        ),
    }
    inputs = {
        name: round_to((random.standard_normal(shape) * size).astype(np.float32), problem.dtype)
        for name, shape in shapes.items()
    }
    inputs["mask"] = np.where(visible(problem), np.float32(0), np.float32(-np.inf))
    if problem.direction != "forward":
        do = random.standard_normal(shapes["Q"]).astype(np.float32)
        inputs["dO"] = round_to(do, problem.dtype)
        inputs |= {f"{name}_grad": inputs[name] for name in "QKV"}  # any values do
    if problem.direction == "backward":
        inputs |= saved_by_forward(problem, inputs)
    return inputs


def saved_by_forward(problem: Attention, inputs: dict[str, Array]) -> dict[str, Array]:
    """What forward schedules leave for their backward ones, of the float64 reference.

    O, P and copies of Q, K and V in the problem's dtype, Q and K scaled by √scale each; LSE,
    row_max (of scores not yet scaled) and row_sum in FP32; with dropout, P after it and which of
    its elements were kept.
    """
    q, k, v = (inputs[name] for name in "QKV")
    output, lse = attention(problem, q, k, v)
    p, row_max, row_sum = softmax(problem, q, k)
    single = {"LSE": lse, "row_max": row_max / problem.scale, "row_sum": row_sum}
    saved = {name: values.astype(np.float32) for name, values in single.items()}
    for name, values in (("O", output), ("P", p)):
        saved[name] = round_to(values.astype(np.float32), problem.dtype)
    if problem.dropout:
        after = dropped(problem, p).astype(np.float32)
        saved["P_dropped"] = round_to(after, problem.dtype)
        saved["dropout_mask"] = round_to(dropped(problem, np.ones_like(p)), "bool")
    root = np.float32(np.sqrt(problem.scale))
    saved |= {f"{name}_scaled": inputs[name] * root for name in "QK"}
    return saved | {f"{name}_copy": inputs[name] for name in "QKV"}
