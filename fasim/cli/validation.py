"""Predicted against measured times and bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fasim.cli.application import app
from fasim.cli.options import ImplementationsOption, JsonOption, check_choice
from fasim.cli.printing import print_note, print_result, progress_of

if TYPE_CHECKING:
    from fasim.verbs.measured.measurements import Measurement


@app.command(
    epilog="Examples: fasim validate --measured times.csv --implementation flash-attn-2 "
    "--direction forward --min-seqlen 1024 --html report.html; "
    "fasim validate --operators --gpu h100-sxm5; fasim validate --kernels --arch sm_90"
)
def validate(
    measured: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="a CSV of measurements; the published ones if unset"),
    ] = None,
    run: Annotated[
        bool, typer.Option("--run", help="measure on the GPU of this machine, then compare")
    ] = False,
    suite: Annotated[str, typer.Option(help="what --run measures: quick or full")] = "quick",
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="where --run keeps its rows, and goes on from")
    ] = Path("measured.csv"),
    kernels: Annotated[
        bool,
        typer.Option("--kernels", help="the Triton kernels, interpreted and compiled; no GPU"),
    ] = False,
    cases: Annotated[str, typer.Option(help="what --kernels interprets: quick or full")] = "quick",
    arch: Annotated[
        str, typer.Option(help="what --kernels compiles for, with commas between")
    ] = "sm_80,sm_89,sm_90,sm_100",
    gpu: Annotated[list[str] | None, typer.Option(help="only rows of this GPU")] = None,
    implementation: ImplementationsOption = None,
    direction: Annotated[
        str | None, typer.Option(help="only rows of this direction: forward, backward or both")
    ] = None,
    min_seqlen: Annotated[int, typer.Option(help="only rows of so many keys or more")] = 0,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="MECHANISM", help="switch a mechanism of the model off; repeatable"),
    ] = None,
    operators: Annotated[
        bool,
        typer.Option("--operators", help="operators, not attention; as a file of them says itself"),
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write the report as one HTML page, too")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Predicted against measured times and DRAM bytes, row by row and in groups.

    Errors are printed as they are and never change the exit status, nor do rows without a
    prediction; a wrong output makes it 1.
    """
    from fasim.problem import ProblemError
    from fasim.report.validations import left_out_lines, validation_text
    from fasim.verbs.measured.measurements import DIRECTIONS, published
    from fasim.verbs.measured.operator_measurements import is_of_operators
    from fasim.verbs.validate import validate as compare

    if kernels:
        _validate_kernels(arch, cases, as_json)
        return
    if operators or (measured is not None and is_of_operators(measured)):
        _validate_operators(measured, gpu, as_json)
        return
    if direction is not None:
        check_choice("direction", direction, tuple(DIRECTIONS.values()))
    if html is not None and not html.parent.is_dir():
        raise ProblemError(f"{html}: there is no folder {html.parent} for the page")
    if run:
        from fasim.verbs.machine.measure_here import SUITES, measure_here

        check_choice("suite", suite, SUITES)
        if measured is not None:
            raise ProblemError("--run measures anew and --measured takes a file: give one of them")
        measure_here(out, suite)
        measured = out

    def keep(row: Measurement) -> bool:
        return (
            (not gpu or row.gpu in gpu)
            and (not implementation or row.implementation in implementation)
            and (direction is None or DIRECTIONS[row.direction] == direction)
            and row.has_keys(min_seqlen)
        )

    validation = compare(
        measured or published(),
        keep=keep,
        processes=cores(),
        progress=progress_of("rows"),
        without=without or (),
    )
    if html is not None:
        from fasim.report.validation_page import validation_page

        html.write_text(validation_page(validation), encoding="utf-8")
        print_note(f"written: {html}")
    if as_json:
        for line in left_out_lines(validation):
            print_note(line)
    print_result(validation.to_dict, lambda: validation_text(validation), as_json)
    if not validation.agrees:
        raise typer.Exit(1)


def cores() -> int:
    """Cores that this process may use."""
    import os

    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _validate_kernels(arch: str, cases: str, as_json: bool) -> None:
    from fasim.report.kernel_validation import kernel_validation_text
    from fasim.verbs.kernels.kernel_validation import validate_kernels

    check_choice("cases", cases, ("quick", "full"))
    validation = validate_kernels(
        arch.split(","),
        "full" if cases == "full" else "quick",
        progress=progress_of("kernels"),
    )
    print_result(validation.to_dict, lambda: kernel_validation_text(validation), as_json)
    if not validation.agrees:
        raise typer.Exit(1)


def _validate_operators(measured: Path | None, gpu: list[str] | None, as_json: bool) -> None:
    from fasim.report.operators import operator_validation_text
    from fasim.verbs.measured.operator_measurements import published
    from fasim.verbs.validate_operators import validate_operators

    validation = validate_operators(
        measured or published(),
        keep=lambda row: not gpu or row.gpu in gpu,
        progress=progress_of("rows"),
    )
    print_result(validation.to_dict, lambda: operator_validation_text(validation), as_json)
