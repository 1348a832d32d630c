"""Megatron-LM's attention: two batched products around one fused scale, mask and softmax kernel.

Products read Q, K and V as they lie in [seqlen, batch, heads, head_dim]; O is copied into place.
Dropout is PyTorch's, a kernel of its own behind the fused one. Backward of the fused kernel reads P
and dP once and writes dS over dP. The causal kernel passes over the hidden half of S, which is
counted here as read.

Without a mask the module takes PyTorch's softmax and its backward, not the fused kernel
(`is_kernel_available` of its `FusedScaleMaskSoftmax`: causal, or padding and a mask given).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules.chain import QUERY
from fasim.schedules.dropout import after_dropout, dropout_gradient_kernels, dropout_kernels
from fasim.schedules.gradients import key_gradients
from fasim.schedules.implementations import cublas, pytorch, pytorch_backward, pytorch_copies
from fasim.schedules.implementations.pytorch_elementwise import (
    COPY_THREE_AXES,
    DROPOUT,
    ELEMENTWISE,
    streaming,
)
from fasim.schedules.language import Kernel, Tensor
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
    softmax_gradient_kernel,
)

if TYPE_CHECKING:
    from fasim.hardware import Gpu

SOURCE = (
    "NVIDIA/Megatron-LM, megatron/fused_kernels/scaled_upper_triang_masked_softmax.h; "
    "flash-attn 2.5.8, flash_attn/fused_softmax.py"
)
DTYPES = ("fp16", "bf16")
# Rows the fused kernel is compiled for; longer ones fall back to PyTorch's own kernels.
LEAST_KEYS, MOST_KEYS, KEY_MULTIPLE = 17, 16384, 4
WARPS, PAIRED_KEYS = 4, 128  # a row a warp; two rows, up to this many keys
# Issued instructions an element that the compiled kernels run through: scaled_masked_softmax.h of
# flash-attn 2.5.8, 1024 columns of fp16, sm_80, CUDA 13.0.
SOFTMAX, SOFTMAX_BACKWARD = 34.1, 10.9


def softmax_block(problem: Attention, *, backward: bool = False) -> tuple[Mapping, int]:
    """Mapping and rows of a block of the softmax; a fused one's warp keeps whole rows."""
    if not problem.masked:
        return pytorch.softmax_mapping(problem, backward=backward)
    rows = WARPS * (2 if problem.seqlen_k <= PAIRED_KEYS else 1)
    return streaming(SOFTMAX_BACKWARD if backward else SOFTMAX, WARPS), rows


def kernels(problem: Attention, gemm: Gemm) -> tuple[Kernel, ...]:
    """The chain: QKᵀ, scale-mask-softmax, [dropout], PV, copy."""
    mapping, rows = softmax_block(problem)
    return (
        query_key_kernel(problem, gemm),
        softmax_kernel(problem, mapping, rows),
        *dropout_kernels(problem, streaming(DROPOUT, warps=4)),
        probability_value_kernel(problem, gemm, o="O_copy", p=after_dropout(problem, "P")),
        pytorch_copies.copy_kernel(problem, "O_copy", "O", QUERY, COPY_THREE_AXES),
    )


def backward_kernels(problem: Attention, gemm: Gemm) -> tuple[Kernel, ...]:
    """The chain: dV, dP, [dropout], softmax backward, dQ, dK, each scaled.

    14 bytes a score of two, 20 without a mask, and 5 for dropout.
    """
    mapping, rows = softmax_block(problem, backward=True)
    softmax: tuple[Kernel, ...] = (softmax_gradient_kernel(problem, mapping, rows),)
    if not problem.masked:
        elementwise = streaming(ELEMENTWISE, warps=4)
        softmax = (
            pytorch_backward.product_kernel(problem, elementwise),
            pytorch_backward.softmax_gradient_kernel(problem, mapping, rows),
        )
    dk, dv = key_gradients(problem)
    unscaled = Tensor("dK_unscaled", dk.axes, problem.dtype)
    p = after_dropout(problem, "P")
    return (
        key_gradient_kernel(problem, gemm, p, "dO", dv, 1.0, "value_gradient"),
        probability_gradient_kernel(problem, gemm),
        *dropout_gradient_kernels(problem, streaming(ELEMENTWISE, warps=4)),
        *softmax,
        query_gradient_kernel(problem, gemm, dq="dQ_unscaled", scale=1.0),
        pytorch.scale_kernel(problem, "dQ_unscaled", Tensor("dQ", QUERY, problem.dtype)),
        key_gradient_kernel(problem, gemm, "dS", "Q", unscaled, 1.0, "key_gradient"),
        pytorch.scale_kernel(problem, "dK_unscaled", dk),
    )


def _build(problem: Attention, gpu: Gpu, options: Options) -> Plan:
    gemm = cublas.gemm(gpu, problem.dtype, options.tile or cublas.usual_tile(problem, gpu))
    chain = chain_of(
        problem, lambda: kernels(problem, gemm), lambda: backward_kernels(problem, gemm)
    )
    return Plan("standard", "megatron", chain, (gemm.tile_m, gemm.tile_n))


def _check(problem: Attention, gpu: Gpu) -> str | None:
    if problem.dtype not in DTYPES:
        return f"it takes {listed(DTYPES)}, not {problem.dtype}"
    if problem.group > 1:
        return "it takes as many key/value heads as query heads"
    keys = problem.seqlen_k
    if problem.masked and (not LEAST_KEYS <= keys <= MOST_KEYS or keys % KEY_MULTIPLE):
        return (
            f"its fused softmax takes {LEAST_KEYS} to {MOST_KEYS} keys, "
            f"a multiple of {KEY_MULTIPLE}, not {keys}"
        )
    return check_dtype(problem, gpu)


ENTRY = Entry(
    name="megatron",
    schedule="standard",
    title="Megatron-LM: baddbmm, scale-mask-softmax fused if masked, bmm",
    source=SOURCE,
    needs="fp16 or bf16, no shared K/V heads; device memory as standard",
    build=_build,
    check=_check,
    features=("dropout",),
)
