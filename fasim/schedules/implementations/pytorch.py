"""Eager PyTorch: the standard chain as `baddbmm`, `softmax`, `bmm` and autograd run it.

The baseline of the FlashAttention-2 and -3 benchmarks (`attention_pytorch`): q and v are copied to
[batch·heads, seqlen, head_dim], k transposed to [batch·heads, head_dim, seqlen]; the scale is
folded into the first product; a causal mask is made anew in FP32 at every call, cast, and added by
a kernel of its own. O is handed on as it lies, and dO comes the same way; dQ, dK (transposed back)
and dV are stacked into the gradient of one packed tensor. Which kernels autograd runs was read off
a trace of that function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules.chain import KEY, QUERY, SCORES, axes_of
from fasim.schedules.dropout import after_dropout, dropout_gradient_kernels, dropout_kernels
from fasim.schedules.gradients import group_sums, key_gradients
from fasim.schedules.implementations import cublas
from fasim.schedules.implementations.pytorch_backward import (
    product_kernel,
    softmax_gradient_kernel,
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
SOURCE = "flash-attn 2.8.3, hopper/benchmark_flash_attention_fp8.py (attention_pytorch)"

# Issued instructions an element of softmax up to 1024 columns: those that an element runs through
# in the machine code of softmax_warp_forward and softmax_warp_backward (PersistentSoftmax.cuh of
# PyTorch 2.13, 1024 columns of fp16, sm_80, CUDA 13.0). Forward takes an exact exp and an exact
# division of each element; backward is a product and a difference.
SOFTMAX_SHORT, SOFTMAX_SHORT_BACKWARD = 38.3, 13.7
# Over 1024 columns a row is a block's. Forward is a figure taken over. The loops of
# cunn_SoftMaxForward and cunn_SoftMaxBackward (SoftMax.cu, written down from memory and compiled
# likewise) run 38 and 8 instructions an element; what a thread does around them, for the 16
# elements it has of 2048, makes that 48 and about 14.
SOFTMAX_LONG, SOFTMAX_LONG_BACKWARD = 48.0, 14.0
# Figures taken over; how they were counted is not known: a broadcast mask added, a strided copy, a
# product of two tensors.
MASK_ADD, STRIDED_COPY, ELEMENTWISE = 60.0, 30.0, 12.0
# fused_dropout draws four numbers a Philox call: 60 instructions over 4, and 3 to convert, compare
# and scale each, beside those of a product. An estimate; the kernel waits for DRAM.
DROPOUT = ELEMENTWISE + 18.0
SHORT_ROW = 1024  # columns up to which a row is one warp's (softmax_warp_forward)
# elementwise_kernel<128, 4>: four elements a thread, consecutive in what it writes.
ELEMENTS_PER_BLOCK = 512


def streaming(instructions: float, warps: int) -> Mapping:
    """A kernel that loads, computes and stores, and keeps nothing in shared memory."""
    return Mapping(
        warps=warps,
        matrix_unit="none",
        copy_unit="registers",
        instructions_per_element=instructions,
        source=SOURCE,
    )


def softmax_block(seqlen_k: int) -> tuple[int, int]:
    """Warps and rows of a block of the softmax kernel for a row length."""
    if seqlen_k <= SHORT_ROW:
        return 4, 4  # softmax_warp_forward: a row a warp
    return 8, 1  # cunn_SoftMaxForward: a row a block


def softmax_mapping(seqlen_k: int, *, backward: bool = False) -> tuple[Mapping, int]:
    """Mapping and rows of a block of the softmax kernel, or of its backward."""
    warps, rows = softmax_block(seqlen_k)
    short, long = SOFTMAX_SHORT, SOFTMAX_LONG
    if backward:
        short, long = SOFTMAX_SHORT_BACKWARD, SOFTMAX_LONG_BACKWARD
    return streaming(short if seqlen_k <= SHORT_ROW else long, warps), rows


def rows_of_block(length: int, head_dim: int) -> int:
    """Rows of a block of an elementwise kernel over so many rows of a head."""
    return min(max(1, ELEMENTS_PER_BLOCK // head_dim), length)


def copy_program(source: str, target: str, axis: str) -> Callable[[Block, Attention], None]:
    """read one tensor; write it again, in tiles of these rows."""

    def copy(block: Block, _: Attention) -> None:
        rows = block.rows(axis)
        block.store(target, block.load(source, rows), rows)

    return copy


def copy_kernel(problem: Attention, source: str, target: str, axes: tuple[str, ...]) -> Kernel:
    """read one tensor; write it again, laid out for a batched GEMM."""
    axis, lengths = axes[2], axes_of(problem)
    return Kernel(
        name=f"copy_{source}",
        program=copy_program(source, target, axis),
        problem=problem,
        grid=(axis, axes[1], "batch"),
        lengths=lengths,
        tiles={axis: rows_of_block(lengths[axis], problem.head_dim)},
        tensors=(Tensor(source, axes, problem.dtype), Tensor(target, axes, problem.dtype)),
        mapping=streaming(STRIDED_COPY, warps=4),
    )


def transposed_copy_kernel(problem: Attention) -> Kernel:
    """read K; write K_copy, in which the keys of one column lie side by side.

    A warp writes a piece of such a column, and each of its reads takes a sector of its own.
    """

    def copy(block: Block, _: Attention) -> None:
        n_rows, columns = block.rows("k"), block.rows("d")
        block.store("K_copy", block.load("K", n_rows, columns), n_rows, columns)

    keys = min(ELEMENTS_PER_BLOCK, problem.seqlen_k)
    return Kernel(
        name="copy_K",
        program=copy,
        problem=problem,
        grid=("k", "d", "kv_head", "batch"),
        lengths=axes_of(problem),
        tiles={"k": keys, "d": min(ELEMENTS_PER_BLOCK // keys, problem.head_dim)},
        tensors=(
            Tensor("K", KEY, problem.dtype),
            Tensor("K_copy", KEY, problem.dtype, innermost="k"),
        ),
        mapping=streaming(STRIDED_COPY, warps=4),
    )


def copy_back_kernel(problem: Attention) -> Kernel:
    """read dK_copy, in which the keys of one column lie side by side; write dK as K lies."""
    return Kernel(
        name="copy_dK_copy",
        program=copy_program("dK_copy", "dK", "k"),
        problem=problem,
        grid=("k", "kv_head", "batch"),
        lengths=axes_of(problem),
        tiles={"k": rows_of_block(problem.seqlen_k, problem.head_dim)},
        tensors=(
            Tensor("dK_copy", KEY, problem.dtype, innermost="k"),
            Tensor("dK", KEY, problem.dtype),
        ),
        mapping=streaming(STRIDED_COPY, warps=4),
    )


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
    softmax, rows_per_block = softmax_mapping(problem.seqlen_k)
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
    softmax, rows_per_block = softmax_mapping(problem.seqlen_k, backward=True)
    dk, dv = key_gradients(problem, "dK_copy", "dV_copy")
    unscaled = Tensor("dK_unscaled", dk.axes, problem.dtype)
    dq = Tensor("dQ_copy", QUERY, problem.dtype)
    p = after_dropout(problem, "P")
    into_place = (
        (copy_back_kernel(problem), copy_kernel(problem, "dV_copy", "dV", KEY))
        if problem.group == 1
        else group_sums(problem)
    )
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
        copy_kernel(problem, "dQ_copy", "dQ", QUERY),
        *into_place,
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
