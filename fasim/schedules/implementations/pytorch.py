"""Eager PyTorch: the standard chain as `baddbmm`, `softmax`, `bmm` and autograd run it.

The baseline of the FlashAttention-2 and -3 benchmarks (`attention_pytorch`): q and v are copied to
[batch·heads, seqlen, head_dim], k transposed to [batch·heads, head_dim, seqlen]; the scale is
folded into the first product; a causal mask is made anew in FP32 at every call, cast, and added by
a kernel of its own. O is handed on as it lies, and dO comes the same way; dQ, dK (transposed back)
and dV are stacked into the gradient of one packed tensor. Which kernels autograd runs was read off
a trace of that function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasim.problem import DTYPE_BYTES, Attention
from fasim.schedules.chain import KEY, QUERY, SCORES, axes_of
from fasim.schedules.dropout import after_dropout, dropout_gradient_kernels, dropout_kernels
from fasim.schedules.gradients import group_sums, key_gradients
from fasim.schedules.implementations import cublas
from fasim.schedules.implementations.pytorch_backward import (
    product_kernel,
    softmax_gradient_kernel,
)
from fasim.schedules.implementations.pytorch_copies import (
    copy_kernel,
    gradient_kernels,
    transposed_copy_kernel,
)
from fasim.schedules.implementations.pytorch_elementwise import (
    DROPOUT,
    ELEMENTWISE,
    MASK_ADD,
    SOURCE,
    rows_of_block,
    streaming,
)
from fasim.schedules.language import Block, Kernel, Tensor
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Entry, Options, Plan, chain_of, check_dtype, listed
from fasim.schedules.standard import (
    Gemm,
    probability_value_kernel,
    query_key_kernel,
    softmax_kernel,
)
from fasim.schedules.standard_backward import (
    key_gradient_kernel,
    probability_gradient_kernel,
    query_gradient_kernel,
)

if TYPE_CHECKING:
    from fasim.hardware import Gpu

DTYPES = ("fp32", "fp16", "bf16")

# Issued instructions an element of softmax up to 1024 columns: those that an element runs through
# in the machine code of softmax_warp_forward and softmax_warp_backward (PersistentSoftmax.cuh of
# PyTorch 2.13, 1024 columns of fp16, sm_80, CUDA 13.0; those of 2.0.1 run 39 and 13.7). Forward
# takes an exact exp and an exact division of each element; backward is a product and a difference.
SOFTMAX_SHORT, SOFTMAX_SHORT_BACKWARD = 38.3, 13.7
# Over 1024 columns a row is a block's. Forward is a figure taken over. The loops of
# cunn_SoftMaxForward and cunn_SoftMaxBackward in PyTorch 2.0.1 run 37 and 8 instructions an
# element; what a thread does around them, for the 16 elements it has of 2048, makes that 48 and
# about 14.
SOFTMAX_LONG, SOFTMAX_LONG_BACKWARD = 48.0, 14.0
# An exact division checks its operands' exponents (FCHK), and one of zero, which is what exp leaves
# of a hidden score, calls the subroutine for odd cases: its way out for a zero, as compiled.
ZERO_DIVIDED = 33.0
SHORT_ROW = 1024  # columns up to which a row is one warp's (softmax_warp_forward)
COPY_BYTES, MOST_THREADS = 16, 1024  # of a vector load; of a block


def softmax_block(seqlen_k: int) -> tuple[int, int]:
    """Warps and rows of a block of the softmax kernel for a row length."""
    if seqlen_k <= SHORT_ROW:
        return 4, 4  # softmax_warp_forward: a row a warp
    return 8, 1  # cunn_SoftMaxForward: a row a block


def softmax_warps(columns: int, element_bytes: int) -> int:
    """Warps of a block of cunn_SoftMaxForward and cunn_SoftMaxBackward (SoftMax_getBlockSize).

    A thread loads 16 bytes at a time; of the threads that this makes of a row, 1024 at most, half
    are taken, and rounded up to a power of two.
    """
    half = min(columns * element_bytes // COPY_BYTES, MOST_THREADS) // 2
    return max(1, (1 << max(0, half - 1).bit_length()) // 32)


def softmax_mapping(problem: Attention, *, backward: bool = False) -> tuple[Mapping, int]:
    """Mapping and rows of a block of the softmax kernel, or of its backward."""
    warps, rows = softmax_block(problem.seqlen_k)
    short, long = SOFTMAX_SHORT, SOFTMAX_LONG
    if backward:
        short, long = SOFTMAX_SHORT_BACKWARD, SOFTMAX_LONG_BACKWARD
    instructions = short if problem.seqlen_k <= SHORT_ROW else long
    if problem.seqlen_k > SHORT_ROW:
        warps = softmax_warps(problem.seqlen_k, DTYPE_BYTES[problem.dtype])
    if not backward:
        scores = problem.seqlen_q * problem.seqlen_k
        instructions += ZERO_DIVIDED * (1 - problem.visible_pairs / scores)
    return streaming(instructions, warps), rows


def scale_kernel(problem: Attention, source: str, target: Tensor) -> Kernel:
    """read one tensor; write it scaled: what is folded into a product forward is not backward."""
    _, heads, *_, axis, _ = target.axes
    lengths = axes_of(problem)

    def scale(block: Block, problem: Attention) -> None:
        rows = block.rows(axis)
        values = block.load(source, rows).to("fp32") * problem.scale
        block.store(target.name, values.to(problem.dtype), rows)

    return Kernel(
        name=f"scale_{source}",
        program=scale,
        problem=problem,
        grid=(axis, "head" if "group" in target.axes else heads, "batch"),
        lengths=lengths,
        tiles={axis: rows_of_block(lengths[axis], problem.head_dim)},
        tensors=(Tensor(source, target.axes, problem.dtype), target),
        mapping=streaming(ELEMENTWISE, warps=4),
    )


def _add_mask(block: Block, problem: Attention) -> None:
    m_rows = block.rows("q")
    s, mask = block.load("S", m_rows), block.load("mask", m_rows)
    block.store("S_masked", (s.to("fp32") + mask.to("fp32")).to(problem.dtype), m_rows)


def add_mask_kernel(problem: Attention) -> Kernel:
    """read S, mask; write S_masked. One additive mask [seqlen_q, seqlen_k] for all heads."""
    dtype = problem.dtype
    return Kernel(
        name="add_mask",
        program=_add_mask,
        problem=problem,
        grid=("q", "head", "batch"),
        lengths=axes_of(problem),
        tiles={"q": 1},
        tensors=(
            Tensor("S", SCORES, dtype),
            Tensor("mask", ("q", "k"), dtype),
            Tensor("S_masked", SCORES, dtype),
        ),
        mapping=streaming(MASK_ADD, warps=4),
    )


def _fill(block: Block, _: Attention) -> None:
    m_rows = block.rows("q")
    block.store("mask_full", block.full(0.0, m_rows, block.all("k")), m_rows)


def _hide(block: Block, _: Attention) -> None:
    m_rows = block.rows("q")
    block.store("mask_fp32", block.mask(block.load("mask_full", m_rows)), m_rows)


def _cast(block: Block, problem: Attention) -> None:
    m_rows = block.rows("q")
    block.store("mask", block.load("mask_fp32", m_rows).to(problem.dtype), m_rows)


def mask_kernels(problem: Attention) -> tuple[Kernel, ...]:
    """full, triu, to: an FP32 mask [seqlen_q, seqlen_k] is filled, cut, and cast to `mask`."""
    full, cut = (Tensor(name, ("q", "k"), "fp32") for name in ("mask_full", "mask_fp32"))
    mask = Tensor("mask", ("q", "k"), problem.dtype)
    steps = (("full", _fill, (full,)), ("triu", _hide, (full, cut)), ("cast", _cast, (cut, mask)))
    return tuple(
        Kernel(
            name=f"mask_{name}",
            program=program,
            problem=problem,
            grid=("q",),
            lengths=axes_of(problem),
            tiles={"q": 1},
            tensors=tensors,
            mapping=streaming(ELEMENTWISE, warps=4),
        )
        for name, program, tensors in steps
    )


def kernels(problem: Attention, gemm: Gemm) -> tuple[Kernel, ...]:
    """The chain: copies, QKᵀ, [a mask made and added], softmax, [dropout], a copy, PV."""
    softmax, rows_per_block = softmax_mapping(problem)
    masked = (*mask_kernels(problem), add_mask_kernel(problem)) if problem.masked else ()
    scores = "S_masked" if problem.masked else "S"
    return (
        copy_kernel(problem, "Q", "Q_copy", QUERY),
        transposed_copy_kernel(problem),
        query_key_kernel(problem, gemm, "Q_copy", "K_copy"),
        *masked,
        softmax_kernel(problem, softmax, rows_per_block, scores, masks=False),
        *dropout_kernels(problem, streaming(DROPOUT, warps=4)),
        copy_kernel(problem, "V", "V_copy", KEY),
        probability_value_kernel(problem, gemm, "V_copy", p=after_dropout(problem, "P")),
    )


def backward_kernels(problem: Attention, gemm: Gemm) -> tuple[Kernel, ...]:
    """The chain: dV, dP, [dropout], grad·output, dS, dQ, dK, scales, copies or group sums."""
    softmax, rows_per_block = softmax_mapping(problem, backward=True)
    dk, dv = key_gradients(problem, "dK_copy", "dV_copy")
    unscaled = Tensor("dK_unscaled", dk.axes, problem.dtype)
    dq = Tensor("dQ_copy", QUERY, problem.dtype)
    p = after_dropout(problem, "P")
    return (
        key_gradient_kernel(problem, gemm, p, "dO", dv, 1.0, "value_gradient"),
        probability_gradient_kernel(problem, gemm, v="V_copy"),
        *dropout_gradient_kernels(problem, streaming(ELEMENTWISE, warps=4)),
        product_kernel(problem, streaming(ELEMENTWISE, warps=4)),
        softmax_gradient_kernel(problem, softmax, rows_per_block),
        query_gradient_kernel(problem, gemm, "K_copy", "dQ_unscaled", scale=1.0),
        scale_kernel(problem, "dQ_unscaled", dq),
        key_gradient_kernel(problem, gemm, "dS", "Q_copy", unscaled, 1.0, "key_gradient"),
        scale_kernel(problem, "dK_unscaled", dk),
        *gradient_kernels(problem),
        *group_sums(problem),
    )


def _build(problem: Attention, gpu: Gpu, options: Options) -> Plan:
    gemm = cublas.gemm(gpu, problem.dtype, options.tile or cublas.usual_tile(problem, gpu))
    chain = chain_of(
        problem, lambda: kernels(problem, gemm), lambda: backward_kernels(problem, gemm)
    )
    return Plan("standard", "pytorch", chain, (gemm.tile_m, gemm.tile_n))


def _check(problem: Attention, gpu: Gpu) -> str | None:
    if problem.dtype not in DTYPES:
        return f"it takes {listed(DTYPES)}, not {problem.dtype}"
    return check_dtype(problem, gpu)


ENTRY = Entry(
    name="pytorch",
    schedule="standard",
    title="eager PyTorch: copies, baddbmm, mask, softmax, bmm",
    source=SOURCE,
    needs="fp32, fp16 or bf16; device memory as standard, and for copies of Q, K, V and O",
    build=_build,
    check=_check,
    features=("dropout", "window"),
)
