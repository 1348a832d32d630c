"""The Triton kernels beside the model: compile."""

from __future__ import annotations

from typing import Annotated

import typer

from fasim.cli.application import kernels_app
from fasim.cli.options import JsonOption
from fasim.cli.printing import print_result, progress_of

ARCHS = "sm_80,sm_89,sm_90,sm_100"


@kernels_app.command(
    "compile", epilog="Example: fasim kernels compile --arch sm_80,sm_90 --kernel forward"
)
def kernels_compile(
    arch: Annotated[str, typer.Option(help="architectures, with commas between")] = ARCHS,
    kernel: Annotated[str | None, typer.Option(help="only kernels of this name")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compiles the kernels without a GPU, and compares them with the model of them.

    Shared memory against the mapping's buffers, spills against none, products, exponentials and
    FP32 arithmetic of an iteration against lowering. Exit status 1 where they disagree.
    """
    from fasim.report.kernels import compiled_text
    from fasim.verbs.kernels.compiled_kernels import compile_kernels

    compiled = compile_kernels(arch.split(","), kernel, progress_of("kernels"))
    print_result(compiled.to_dict, lambda: compiled_text(compiled), as_json)
    if not compiled.agrees:
        raise typer.Exit(1)
