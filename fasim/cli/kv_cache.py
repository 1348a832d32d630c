"""The size of a model's key/value cache."""

from __future__ import annotations

from typing import Annotated

import typer

from fasim.cli.application import app
from fasim.cli.options import BatchOption, DtypeOption, HeadDimOption, JsonOption, profile_of
from fasim.cli.printing import print_result


@app.command(
    "kv-cache",
    epilog="Example: fasim kv-cache --layers 32 --batch 16 --kv-heads 8 --seqlen 8192 "
    "--head-dim 128 --gpu a100",
)
def kv_cache(
    layers: Annotated[int, typer.Option(help="attention layers of the model")],
    kv_heads: Annotated[int, typer.Option(help="key/value heads of a layer")],
    seqlen: Annotated[int, typer.Option(help="tokens of a sequence")],
    head_dim: HeadDimOption,
    batch: BatchOption = 1,
    dtype: DtypeOption = "fp16",
    gpu: Annotated[str | None, typer.Option(metavar="NAME|FILE", help="a GPU to hold it")] = None,
    as_json: JsonOption = False,
) -> None:
    """Bytes of a model's key/value cache, and whether they fit a GPU."""
    from fasim.report.kv_cache import kv_cache_text
    from fasim.verbs.kv_cache import kv_cache as run

    cache = run(
        layers=layers,
        batch=batch,
        kv_heads=kv_heads,
        seqlen=seqlen,
        head_dim=head_dim,
        dtype=dtype,
        profile=None if gpu is None else profile_of(gpu, None),
    )
    print_result(cache.to_dict, lambda: kv_cache_text(cache), as_json)
