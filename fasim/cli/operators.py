"""Operators on their own: what one costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fasim.cli.application import operators_app
from fasim.cli.options import (
    GpuOption,
    JsonOption,
    L2Option,
    LaunchOption,
    RunLengthOption,
    SetOption,
    profile_of,
    scenario_of,
)
from fasim.cli.printing import print_result

if TYPE_CHECKING:
    from fasim.operators import Operator

DtypeOption = Annotated[str, typer.Option(help="fp16, bf16 or fp32")]
RowsOption = Annotated[int, typer.Option(help="rows, each on its own")]
ColumnsOption = Annotated[int, typer.Option(help="elements of a row")]
ElementsOption = Annotated[int, typer.Option(help="elements of the result")]


@operators_app.command(
    epilog="Examples: fasim predict-op gemm --gpu h100 --m 4096 --n 4096 --k 4096; "
    "fasim predict-op gemm --gpu a100 --m 2048 --n 2048 --k 128 --batch 192 --dtype bf16"
)
def gemm(
    gpu: GpuOption,
    m: Annotated[int, typer.Option(help="rows of A and C")],
    n: Annotated[int, typer.Option(help="rows of B, columns of C")],
    k: Annotated[int, typer.Option(help="columns of A and B, the contracted side")],
    batch: Annotated[int, typer.Option(help="products in one call")] = 1,
    dtype: Annotated[
        str, typer.Option(help="fp16, bf16, tf32 (tensor cores) or fp32 (CUDA cores)")
    ] = "fp16",
    set_: SetOption = None,
    launch: LaunchOption = "stream",
    l2: L2Option = "warm",
    run_length: RunLengthOption = "sustained",
    as_json: JsonOption = False,
) -> None:
    """C[m, n] = A[m, k] x B[n, k] transposed, as a linear layer stores its weights; by cuBLAS."""
    from fasim.operators import gemm as product

    _print(product(m, n, k, batch, dtype), gpu, set_, (launch, l2, run_length), as_json)


@operators_app.command(
    epilog="Example: fasim predict-op softmax --gpu a100 --rows 4096 --columns 4096"
)
def softmax(
    gpu: GpuOption,
    rows: RowsOption,
    columns: ColumnsOption,
    dtype: DtypeOption = "fp16",
    set_: SetOption = None,
    launch: LaunchOption = "stream",
    l2: L2Option = "warm",
    run_length: RunLengthOption = "sustained",
    as_json: JsonOption = False,
) -> None:
    """Softmax of each row: reads S, writes P."""
    _print_rows("softmax", rows, columns, "", dtype, gpu, set_, (launch, l2, run_length), as_json)


@operators_app.command(
    epilog="Examples: fasim predict-op elementwise --gpu a100 --elements 67108864 --op gelu; "
    "fasim predict-op elementwise --gpu h100 --elements 1000000000 --op add --dtype bf16"
)
def elementwise(
    gpu: GpuOption,
    elements: ElementsOption,
    op: Annotated[
        str,
        typer.Option(
            help="reads one tensor: gelu, relu, silu, scale; two: add, mul, triad (x + y times a "
            "number); none: fill; dropout reads one and writes a mask of a byte an element too"
        ),
    ] = "gelu",
    dtype: DtypeOption = "fp16",
    set_: SetOption = None,
    launch: LaunchOption = "stream",
    l2: L2Option = "warm",
    run_length: RunLengthOption = "sustained",
    as_json: JsonOption = False,
) -> None:
    """One result an element: activations, sums, dropout."""
    from fasim.operators import over_elements

    operator = over_elements("elementwise", elements, op, dtype)
    _print(operator, gpu, set_, (launch, l2, run_length), as_json)


@operators_app.command(
    epilog="Example: fasim predict-op reduce --gpu a100 --rows 4096 --columns 16384 --op max"
)
def reduce(
    gpu: GpuOption,
    rows: RowsOption,
    columns: ColumnsOption,
    op: Annotated[str, typer.Option(help="sum or max")] = "sum",
    dtype: DtypeOption = "fp16",
    set_: SetOption = None,
    launch: LaunchOption = "stream",
    l2: L2Option = "warm",
    run_length: RunLengthOption = "sustained",
    as_json: JsonOption = False,
) -> None:
    """The sum or the maximum of each row: reads the matrix, writes a value a row."""
    _print_rows("reduce", rows, columns, op, dtype, gpu, set_, (launch, l2, run_length), as_json)


@operators_app.command(
    epilog="Example: fasim predict-op norm --gpu a100 --rows 8192 --columns 4096 --op rms"
)
def norm(
    gpu: GpuOption,
    rows: RowsOption,
    columns: ColumnsOption,
    op: Annotated[str, typer.Option(help="layer (mean and variance) or rms")] = "layer",
    dtype: DtypeOption = "fp16",
    set_: SetOption = None,
    launch: LaunchOption = "stream",
    l2: L2Option = "warm",
    run_length: RunLengthOption = "sustained",
    as_json: JsonOption = False,
) -> None:
    """Each row normalised: reads it and the weights, writes it and what backward needs."""
    _print_rows("norm", rows, columns, op, dtype, gpu, set_, (launch, l2, run_length), as_json)


@operators_app.command(
    epilog="Example: fasim predict-op copy --gpu h100 --elements 268435456 --dtype fp32"
)
def copy(
    gpu: GpuOption,
    elements: ElementsOption,
    dtype: DtypeOption = "fp16",
    set_: SetOption = None,
    launch: LaunchOption = "stream",
    l2: L2Option = "warm",
    run_length: RunLengthOption = "sustained",
    as_json: JsonOption = False,
) -> None:
    """A tensor read and written again, contiguous."""
    from fasim.operators import over_elements

    operator = over_elements("copy", elements, dtype=dtype)
    _print(operator, gpu, set_, (launch, l2, run_length), as_json)


def _print_rows(
    kind: str,
    rows: int,
    columns: int,
    op: str,
    dtype: str,
    gpu: str,
    overrides: list[str] | None,
    scenario: tuple[str, str, str],
    as_json: bool,
) -> None:
    from fasim.operators import over_rows

    operator = over_rows(kind, rows, columns, op, dtype)  # type: ignore[arg-type]
    _print(operator, gpu, overrides, scenario, as_json)


def _print(
    operator: Operator,
    gpu: str,
    overrides: list[str] | None,
    scenario: tuple[str, str, str],
    as_json: bool,
) -> None:
    from fasim.report.operators import operator_text
    from fasim.verbs.predict_op import predict_op

    found = predict_op(operator, profile_of(gpu, overrides), scenario_of(*scenario))
    print_result(found.to_dict, lambda: operator_text(found), as_json)
