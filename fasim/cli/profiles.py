"""GPU profiles: list, show, check, schema."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fasim.cli.application import profiles_app
from fasim.cli.options import JsonOption, SetOption
from fasim.cli.printing import print_json, print_note, print_result


@profiles_app.command("list")
def profiles_list(as_json: JsonOption = False) -> None:
    """Every shipped GPU."""
    from fasim.report.profiles import list_dict, list_text
    from fasim.verbs.profiles import list_profiles

    rows = list_profiles()
    print_result(lambda: list_dict(rows), lambda: list_text(rows), as_json)


@profiles_app.command("show")
def profiles_show(
    gpu: Annotated[str, typer.Argument(metavar="NAME|FILE")],
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """One GPU: every number with its source, and what follows from them."""
    from fasim.hardware import parse_overrides
    from fasim.report.profiles import sheet_dict, sheet_text
    from fasim.verbs.profiles import show_profile

    sheet = show_profile(gpu, parse_overrides(set_ or []))
    print_result(lambda: sheet_dict(sheet), lambda: sheet_text(sheet), as_json)


@profiles_app.command("check")
def profiles_check(
    file: Annotated[Path, typer.Argument(metavar="FILE")], as_json: JsonOption = False
) -> None:
    """Every fault of a profile file, one a line; exit status 2 if there is any."""
    from fasim.report.profiles import check_dict, check_text
    from fasim.verbs.profiles import check_profile

    checked = check_profile(file)
    if as_json:
        print_json(check_dict(checked))
    else:
        print(check_text(checked), file=sys.stdout if checked.ok else sys.stderr)
    if not checked.ok:
        raise typer.Exit(2)


@profiles_app.command("schema")
def profiles_schema() -> None:
    """The JSON Schema of a profile file, for editors."""
    from fasim.verbs.profiles import schema

    print_json(schema())


@profiles_app.command(
    "detect",
    epilog="Example: fasim profiles detect --measured measured.csv --out my-gpu.yaml",
)
def profiles_detect(
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write the profile there; stdout if unset")
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="a CSV with device facts measured on this GPU"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """A profile of the GPU in this machine: every number queried, measured or assumed."""
    from fasim.problem import ProblemError
    from fasim.report.profile_file import counts_text, detected_dict, profile_yaml
    from fasim.verbs.machine.profile_detection import detect_profile

    if out is not None and out.exists():
        raise ProblemError(f"{out}: is there already; give another name")
    found = detect_profile(measured)
    if out is not None:
        out.write_text(profile_yaml(found), encoding="utf-8")
        print_note(f"written: {out}, {counts_text(found)}; use it as --gpu {out}")
    if as_json or out is None:
        print_result(lambda: detected_dict(found), lambda: profile_yaml(found).rstrip(), as_json)
