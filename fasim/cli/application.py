"""The command and its groups of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from fasim import __version__

app = typer.Typer(
    name="fasim",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="What does this attention schedule cost on that GPU, and why?",
    epilog="Example: fasim compare --gpu a100 --batch 64 --heads 16 --seqlen 1024 --head-dim 64",
)
profiles_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="GPU profiles.")
app.add_typer(profiles_app, name="profiles")
operators_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="What does one operator cost: FLOPs, bytes, intensity, what bounds it, time?",
)
app.add_typer(operators_app, name="predict-op")
study_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="A question that takes many predictions."
)
app.add_typer(study_app, name="study")
kernels_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The Triton kernels beside the model."
)
app.add_typer(kernels_app, name="kernels")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fasim {__version__}")
        raise typer.Exit


@app.callback()
def _fasim(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="print the version and leave"
        ),
    ] = False,
) -> None:
    pass
