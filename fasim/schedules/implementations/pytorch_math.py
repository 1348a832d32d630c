"""PyTorch's math backend of `scaled_dot_product_attention`, from torch 2.5 on.

Half-precision q, k and v are cast to FP32, and so is all between them and O: scores of four
bytes, products on the FP32 lanes (TF32 is off unless it is allowed). q and k are scaled by √scale
each; a causal mask is added by a kernel of its own. P leaves rounded beside O, though nobody takes
it. Backward scales dQ and dK by √scale again, and casts the gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules.chain import KEY, QUERY, SCORES, axes_of
from fasim.schedules.dropout import after_dropout, dropout_gradient_kernels, dropout_kernels
from fasim.schedules.implementations import cublas, pytorch, safe_softmax
from fasim.schedules.implementations.pytorch_backward import (
    product_kernel,
    softmax_gradient_kernel,
)
from fasim.schedules.implementations.pytorch_elementwise import DROPOUT, ELEMENTWISE, streaming
from fasim.schedules.language import Block, Kernel, Tensor
from fasim.schedules.plan import Entry, Options, Plan, chain_of, check_dtype, listed
from fasim.schedules.standard import probability_value_kernel, query_key_kernel
from fasim.schedules.standard_backward import (
    key_gradient_kernel,
    probability_gradient_kernel,
    query_gradient_kernel,
)

if TYPE_CHECKING:
    from fasim.hardware import Gpu

SOURCE = "pytorch/pytorch aten/src/ATen/native/transformers/attention.cpp (_sdp_math), 2.5"
DTYPES = ("fp16", "bf16")
ROWS_PER_BLOCK = 16
GRADIENTS = (("dQ", QUERY), ("dK", KEY), ("dV", KEY))
# P in the inputs' dtype: what the operator returns beside O, and its caller drops.
DISCARDED = "P_unused"


def _convert_program(
    source: str, target: Tensor, axis: str, factor: float
) -> Callable[[Block, Attention], None]:
    def convert(block: Block, _: Attention) -> None:
        rows = block.rows(axis)
        values = block.load(source, rows).to("fp32")
        values = values if factor == 1 else values * factor
        block.store(target.name, values.to(target.dtype), rows)

    return convert


def convert_kernel(
    problem: Attention, source: Tensor, target: Tensor, factor: float = 1.0
) -> Kernel:
    """read one tensor; write it again in another dtype, or multiplied."""
    axis = source.axes[2]
    return Kernel(
        name=f"{'cast' if factor == 1 else 'scale'}_{source.name}",
        program=_convert_program(source.name, target, axis, factor),
        problem=problem,
        grid=(axis, source.axes[1], "batch"),
        lengths=axes_of(problem),
        tiles={axis: ROWS_PER_BLOCK},
        tensors=(source, target),
        mapping=streaming(ELEMENTWISE, warps=4),
    )


def _cast(problem: Attention, name: str, axes: tuple[str, ...]) -> Kernel:
    """To FP32, as `name`_copy."""
    narrow, wide = Tensor(name, axes, problem.dtype), Tensor(f"{name}_copy", axes, "fp32")
    return convert_kernel(problem, narrow, wide)


def _cast_back(problem: Attention, name: str, axes: tuple[str, ...]) -> Kernel:
    """From FP32 `name`_copy to the problem's dtype."""
    narrow, wide = Tensor(name, axes, problem.dtype), Tensor(f"{name}_copy", axes, "fp32")
    return convert_kernel(problem, wide, narrow)


def _scale(problem: Attention, source: str, target: str, axes: tuple[str, ...]) -> Kernel:
    """By √scale, in FP32."""
    wide, scaled = (Tensor(name, axes, "fp32") for name in (source, target))
    return convert_kernel(problem, wide, scaled, sqrt(problem.scale))


def kernels(problem: Attention) -> tuple[Kernel, ...]:
    """The chain: casts, scales, QKᵀ, [mask], softmax, [dropout], a cast of P, PV, a cast of O."""
    wide, gemm = replace(problem, dtype="fp32"), cublas.sgemm()
    p = after_dropout(problem, "P")
    return (
        _cast(problem, "Q", QUERY),
        _cast(problem, "K", KEY),
        _cast(problem, "V", KEY),
        _scale(problem, "Q_copy", "Q_scaled", QUERY),
        _scale(problem, "K_copy", "K_scaled", KEY),
        query_key_kernel(wide, gemm, "Q_scaled", "K_scaled", scale=1.0),
        *((pytorch.add_mask_kernel(wide),) if problem.causal else ()),
        *safe_softmax.kernels(wide, "S_masked" if problem.causal else "S"),
        *dropout_kernels(wide, streaming(DROPOUT, warps=4)),
        convert_kernel(
            problem, Tensor(p, SCORES, "fp32"), Tensor(DISCARDED, SCORES, problem.dtype)
        ),
        probability_value_kernel(wide, gemm, "V_copy", "O_copy", p),
        _cast_back(problem, "O", QUERY),
    )


def backward_kernels(problem: Attention) -> tuple[Kernel, ...]:
    """The chain: a cast of dO, dV, dP, [dropout], grad·output, dS, dK, dQ, scales, casts."""
    wide, gemm = replace(problem, dtype="fp32"), cublas.sgemm()
    softmax, rows_per_block = pytorch.softmax_mapping(problem, backward=True)
    elementwise = streaming(ELEMENTWISE, warps=4)
    p = after_dropout(problem, "P")
    dk, dv = (Tensor(name, KEY, "fp32") for name in ("dK_scaled", "dV_copy"))
    return (
        _cast(problem, "dO", QUERY),
        key_gradient_kernel(wide, gemm, p, "dO_copy", dv, 1.0, "value_gradient"),
        probability_gradient_kernel(wide, gemm, "dO_copy", "V_copy"),
        *dropout_gradient_kernels(wide, elementwise),
        product_kernel(wide, elementwise),
        softmax_gradient_kernel(wide, softmax, rows_per_block),
        key_gradient_kernel(wide, gemm, "dS", "Q_scaled", dk, 1.0, "key_gradient"),
        query_gradient_kernel(wide, gemm, "K_scaled", "dQ_scaled", scale=1.0),
        _scale(problem, "dK_scaled", "dK_copy", KEY),
        _scale(problem, "dQ_scaled", "dQ_copy", QUERY),
        *(_cast_back(problem, name, axes) for name, axes in GRADIENTS),
    )


def _build(problem: Attention, _gpu: Gpu, _options: Options) -> Plan:
    gemm = cublas.sgemm()
    chain = chain_of(problem, lambda: kernels(problem), lambda: backward_kernels(problem))
    return Plan("standard", "pytorch-math", chain, (gemm.tile_m, gemm.tile_n))


def _check(problem: Attention, gpu: Gpu) -> str | None:
    if problem.dtype not in DTYPES:
        return f"it takes {listed(DTYPES)}, not {problem.dtype}"
    if problem.group > 1:
        return "it takes as many key/value heads as query heads"
    return check_dtype(problem, gpu)


ENTRY = Entry(
    name="pytorch-math",
    schedule="standard",
    title="PyTorch's math backend: everything in FP32, without tensor cores",
    source=SOURCE,
    needs="fp16 or bf16, no shared K/V heads; device memory for several FP32 scores",
    build=_build,
    check=_check,
    takes=(),
    features=("dropout",),
)
