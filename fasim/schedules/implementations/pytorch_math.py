"""PyTorch's math backend of `scaled_dot_product_attention`, from torch 2.5 on.

Half-precision q, k and v are cast to FP32, and so is all between them and O: scores of four
bytes, products on the FP32 lanes (TF32 is off unless it is allowed). q and k are scaled by √scale
each; a causal mask is added by a kernel of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules.chain import KEY, QUERY, axes_of
from fasim.schedules.implementations import cublas, pytorch
from fasim.schedules.language import Block, Kernel, Tensor
from fasim.schedules.plan import Entry, Options, Plan, check_forward, listed
from fasim.schedules.standard import probability_value_kernel, query_key_kernel, softmax_kernel

if TYPE_CHECKING:
    from fasim.hardware import Gpu

SOURCE = "pytorch/pytorch aten/src/ATen/native/transformers/attention.cpp (_sdp_math), 2.5"
DTYPES = ("fp16", "bf16")
ROWS_PER_BLOCK = 16


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
        mapping=pytorch.streaming(pytorch.ELEMENTWISE, warps=4),
    )


def kernels(problem: Attention) -> tuple[Kernel, ...]:
    """The chain: casts, scales, QKᵀ, [mask], softmax, PV, cast."""
    wide = replace(problem, dtype="fp32")
    gemm, root = cublas.sgemm(), sqrt(problem.scale)
    warps, rows_per_block = pytorch.softmax_block(problem.seqlen_k)
    short = problem.seqlen_k <= pytorch.SHORT_ROW
    instructions = pytorch.SOFTMAX_SHORT if short else pytorch.SOFTMAX_LONG
    softmax = pytorch.streaming(instructions, warps)

    def cast(name: str, axes: tuple[str, ...]) -> Kernel:
        narrow, copy = Tensor(name, axes, problem.dtype), Tensor(f"{name}_copy", axes, "fp32")
        return convert_kernel(problem, narrow, copy)

    def scale(name: str, axes: tuple[str, ...]) -> Kernel:
        copy, scaled = (Tensor(f"{name}_{end}", axes, "fp32") for end in ("copy", "scaled"))
        return convert_kernel(wide, copy, scaled, root)

    wide_o, o = Tensor("O_copy", QUERY, "fp32"), Tensor("O", QUERY, problem.dtype)
    return (
        cast("Q", QUERY),
        cast("K", KEY),
        cast("V", KEY),
        scale("Q", QUERY),
        scale("K", KEY),
        query_key_kernel(wide, gemm, "Q_scaled", "K_scaled", scale=1.0),
        *((pytorch.add_mask_kernel(wide),) if problem.causal else ()),
        softmax_kernel(
            wide, softmax, rows_per_block, "S_masked" if problem.causal else "S", masks=False
        ),
        probability_value_kernel(wide, gemm, "V_copy", "O_copy"),
        convert_kernel(problem, wide_o, o),
    )


def _build(problem: Attention, _gpu: Gpu, _options: Options) -> Plan:
    gemm = cublas.sgemm()
    return Plan("standard", "pytorch-math", kernels(problem), (gemm.tile_m, gemm.tile_n))


def _check(problem: Attention, gpu: Gpu) -> str | None:
    if problem.dtype not in DTYPES:
        return f"it takes {listed(DTYPES)}, not {problem.dtype}"
    if problem.group > 1:
        return "it takes as many key/value heads as query heads"
    return check_forward(problem, gpu)


ENTRY = Entry(
    name="pytorch-math",
    schedule="standard",
    title="PyTorch's math backend: everything in FP32, without tensor cores; forward",
    source=SOURCE,
    needs="fp16 or bf16, no shared K/V heads; twice standard's device memory for scores",
    build=_build,
    check=_check,
    takes=(),
)
