"""Who runs an operator: cuBLAS its products, PyTorch the rest, as attention's own kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasim.operators import Operator
from fasim.problem import DTYPE_BYTES, TENSOR_DTYPE
from fasim.schedules import softmax
from fasim.schedules.implementations import cublas_gemm
from fasim.schedules.implementations.pytorch import (
    SHORT_ROW,
    SOFTMAX_LONG,
    SOFTMAX_SHORT,
    softmax_block,
    softmax_warps,
)
from fasim.schedules.implementations.pytorch_elementwise import DROPOUT, ELEMENTWISE, streaming
from fasim.schedules.language import Kernel
from fasim.schedules.mapping import Mapping
from fasim.schedules.operators import pointwise, product, rowwise
from fasim.schedules.plan import Plan, Refused
from fasim.schedules.standard import softmax_kernel

if TYPE_CHECKING:
    from fasim.hardware import Gpu

POINTWISE_WARPS = 4
POINTWISE_ELEMENTS = 512  # vectorized_elementwise_kernel: 128 threads of four elements
# The longest row that a block's registers hold: 128 elements a thread of 256.
WHOLE_ROW = 32768
TILE_OF_LONG_ROW = 4096
BEST_OF = "cuBLAS's choice is closed: the fastest of its usual tiles, stages and splits is taken"


def plans(operator: Operator, gpu: Gpu) -> list[tuple[float, Plan]]:
    """What may run, one of which does: the fastest.

    Returns:
        Each with the seconds that no run of it goes below, by these.

    Raises:
        Refused: nothing that is known runs it on this GPU; the message is one line.
    """
    if operator.kind == "gemm":
        return _products(operator, gpu)
    return [(0.0, _streamed(operator))]


def _products(operator: Operator, gpu: Gpu) -> list[tuple[float, Plan]]:
    if operator.dtype != "fp32":
        if "tcgen05" in gpu.features:
            raise Refused("gemm", f"{gpu.name} multiplies by tcgen05, which is not modelled")
        if gpu.tensor_core.flops_per_clock[TENSOR_DTYPE[operator.stored_dtype]] is None:
            raise Refused("gemm", f"{gpu.name} has no tensor cores for {operator.dtype}")
    problem = operator.in_attention
    adding = streaming(ELEMENTWISE, POINTWISE_WARPS)
    found = []
    for each in cublas_gemm.candidates(operator, gpu):
        kernels = product.kernels(problem, each.gemm, each.splits, adding, POINTWISE_ELEMENTS)
        tile = (each.gemm.tile_m, each.gemm.tile_n)
        found.append((each.least_s, Plan("gemm", "cublas", kernels, tile, (BEST_OF,))))
    return found


def _streamed(operator: Operator) -> Plan:
    if operator.kind in ("elementwise", "copy"):
        kernel, tile = _pointwise(operator), (1, POINTWISE_ELEMENTS)
    else:
        kernel = _by_rows(operator)
        tile = (kernel.tile("q"), kernel.tile("k"))
    return Plan(operator.name, "pytorch", (kernel,), tile)


def _pointwise(operator: Operator) -> Kernel:
    instructions = DROPOUT if operator.operation == "dropout" else ELEMENTWISE
    mapping = streaming(instructions, POINTWISE_WARPS)
    operation = operator.operation or "copy"
    return pointwise.kernel(operator.in_attention, operation, mapping, POINTWISE_ELEMENTS)


def _by_rows(operator: Operator) -> Kernel:
    problem, columns = operator.in_attention, operator.columns
    warps, rows = softmax_block(columns)
    rows = min(rows, operator.rows)
    # How long PyTorch's reductions and norms are is not known: their programs are counted.
    counted = Mapping(warps, matrix_unit="none", copy_unit="registers")
    if operator.kind == "reduce":
        tile = columns if columns <= WHOLE_ROW else TILE_OF_LONG_ROW
        return rowwise.reduce_kernel(problem, operator.operation, counted, rows, tile)
    if operator.kind == "norm":
        if columns > WHOLE_ROW:
            raise Refused(
                operator.name,
                f"rows of {columns} columns do not stay in a block's registers, "
                f"up to {WHOLE_ROW} do",
            )
        return rowwise.norm_kernel(problem, operator.operation, counted, rows)
    instructions = SOFTMAX_SHORT if columns <= SHORT_ROW else SOFTMAX_LONG
    if columns > SHORT_ROW:
        warps = softmax_warps(columns, DTYPE_BYTES[problem.dtype])
    mapping = streaming(instructions, warps)
    if columns > WHOLE_ROW:
        (kernel,) = softmax.kernels("softmax-safe", problem, mapping, rows, TILE_OF_LONG_ROW)
        return kernel
    return softmax_kernel(problem, mapping, rows, masks=False)
