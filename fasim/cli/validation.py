"""Predicted against measured times."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fasim.cli.application import app
from fasim.cli.options import ImplementationsOption, JsonOption, check_choice
from fasim.cli.printing import print_result, progress_of


@app.command(
    epilog="Examples: fasim validate --measured times.csv --implementation flash-attn-2 "
    "--direction forward --min-seqlen 1024; fasim validate --operators --gpu h100-sxm5"
)
def validate(
    measured: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="a CSV of measured times; the published ones if unset"),
    ] = None,
    gpu: Annotated[list[str] | None, typer.Option(help="only rows of this GPU")] = None,
    implementation: ImplementationsOption = None,
    direction: Annotated[
        str | None, typer.Option(help="only rows of this direction: forward, backward or both")
    ] = None,
    min_seqlen: Annotated[int, typer.Option(help="only rows of so many keys or more")] = 0,
    operators: Annotated[
        bool,
        typer.Option("--operators", help="operators, not attention; as a file of them says itself"),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Predicted against measured times, row by row and in groups; errors as they are."""
    from fasim.report.validations import validation_text
    from fasim.verbs.measurements import DIRECTIONS, Measurement, published
    from fasim.verbs.operator_measurements import is_of_operators
    from fasim.verbs.validate import validate as run

    if operators or (measured is not None and is_of_operators(measured)):
        _validate_operators(measured, gpu, as_json)
        return
    if direction is not None:
        check_choice("direction", direction, tuple(DIRECTIONS.values()))

    def keep(row: Measurement) -> bool:
        return (
            (not gpu or row.gpu in gpu)
            and (not implementation or row.implementation in implementation)
            and (direction is None or DIRECTIONS[row.direction] == direction)
            and (min_seqlen == 0 or int(row.fields["seqlen_k"] or 0) >= min_seqlen)
        )

    validation = run(measured or published(), keep=keep, progress=progress_of("rows"))
    print_result(validation.to_dict, lambda: validation_text(validation), as_json)


def _validate_operators(measured: Path | None, gpu: list[str] | None, as_json: bool) -> None:
    from fasim.report.operators import operator_validation_text
    from fasim.verbs.operator_measurements import published
    from fasim.verbs.validate_operators import validate_operators

    validation = validate_operators(
        measured or published(),
        keep=lambda row: not gpu or row.gpu in gpu,
        progress=progress_of("rows"),
    )
    print_result(validation.to_dict, lambda: operator_validation_text(validation), as_json)
