"""The command line: parses, calls a verb, prints.

Every command takes `--json`: then stdout is one strict JSON document, and progress and notes
go to stderr. Exit status: 0 done, 1 a cross-check disagreed, 2 bad input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from fasim import __version__

if TYPE_CHECKING:
    from fasim.hardware import Profile
    from fasim.problem import Attention, Scenario
    from fasim.schedules.plan import Options

Result = TypeVar("Result")

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
study_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="A question that takes many predictions."
)
app.add_typer(study_app, name="study")

GpuOption = Annotated[
    str, typer.Option("--gpu", metavar="NAME|FILE", help="a GPU by name, or its YAML file")
]
GpusOption = Annotated[
    list[str],
    typer.Option("--gpu", metavar="NAME|FILE", help="a GPU by name or YAML file; repeatable"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="another value for a fact of the GPU"),
]
ScheduleOption = Annotated[
    str | None, typer.Option(help="see `fasim schedules`; the fastest if not given")
]
SchedulesOption = Annotated[
    list[str] | None, typer.Option("--schedule", help="repeatable; all if none is given")
]
ImplementationOption = Annotated[
    str | None, typer.Option(help="a named kernel family; it decides the schedule")
]
ImplementationsOption = Annotated[
    list[str] | None, typer.Option("--implementation", help="a named kernel family; repeatable")
]
BatchOption = Annotated[int, typer.Option(help="sequences")]
HeadsOption = Annotated[int, typer.Option(help="query heads")]
KvHeadsOption = Annotated[
    int | None, typer.Option(help="key/value heads (grouped-query attention); as --heads if unset")
]
SeqlenOption = Annotated[int | None, typer.Option(help="queries and keys")]
SeqlenQOption = Annotated[int | None, typer.Option(help="queries, instead of --seqlen")]
SeqlenKOption = Annotated[int | None, typer.Option(help="keys, instead of --seqlen")]
HeadDimOption = Annotated[int, typer.Option(help="elements of a head")]
DtypeOption = Annotated[str, typer.Option(help="fp16, bf16, fp32 or fp8")]
CausalOption = Annotated[bool, typer.Option("--causal", help="mask, aligned bottom-right")]
WindowOption = Annotated[
    str | None,
    typer.Option(metavar="L,R", help="keys seen to the left and right of a query's own; -1: all"),
]
DropoutOption = Annotated[float, typer.Option(help="probability that an element of P is dropped")]
DirectionOption = Annotated[str, typer.Option(help="forward, backward or both")]
TileOption = Annotated[
    str | None, typer.Option(metavar="MxN", help="rows of Q x rows of K/V, for example 128x64")
]
WarpsOption = Annotated[int | None, typer.Option(help="warps of a block that compute")]
StagesOption = Annotated[int | None, typer.Option(help="shared-memory buffers of K and of V")]
NumSplitsOption = Annotated[
    int | None, typer.Option(help="parts of the keys that have blocks of their own")
]
PackGqaOption = Annotated[
    bool | None,
    typer.Option(
        "--pack-gqa/--no-pack-gqa", help="whether the query heads of a group share a tile"
    ),
]
PageSizeOption = Annotated[
    int | None, typer.Option(help="keys in a page of a paged K/V cache; contiguous if unset")
]
WritesKvOption = Annotated[
    bool,
    typer.Option("--writes-kv", help="a kernel before writes the new keys and values to the cache"),
]
LaunchOption = Annotated[str, typer.Option(help="stream, graph or kernel (no launch cost)")]
L2Option = Annotated[str, typer.Option(help="warm or cold, before the first kernel")]
RunLengthOption = Annotated[
    str, typer.Option(help="short, or sustained: long enough for the power limit to act")
]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]


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


@app.command(
    epilog="Examples: "
    "fasim predict --gpu a100 --schedule flash2 --batch 4 --heads 32 --seqlen 4096 --head-dim 128; "
    "fasim predict --gpu h100 --set dram.bandwidth=6.7TB/s --set sm_count=264 --heads 16 "
    "--seqlen 8192 --head-dim 128 --causal"
)
def predict(
    gpu: GpuOption,
    heads: HeadsOption,
    head_dim: HeadDimOption,
    set_: SetOption = None,
    schedule: ScheduleOption = None,
    implementation: ImplementationOption = None,
    batch: BatchOption = 1,
    kv_heads: KvHeadsOption = None,
    seqlen: SeqlenOption = None,
    seqlen_q: SeqlenQOption = None,
    seqlen_k: SeqlenKOption = None,
    dtype: DtypeOption = "fp16",
    causal: CausalOption = False,
    window: WindowOption = None,
    dropout: DropoutOption = 0.0,
    direction: DirectionOption = "forward",
    tile: TileOption = None,
    warps: WarpsOption = None,
    stages: StagesOption = None,
    num_splits: NumSplitsOption = None,
    pack_gqa: PackGqaOption = None,
    page_size: PageSizeOption = None,
    writes_kv: WritesKvOption = False,
    launch: LaunchOption = "stream",
    l2: L2Option = "warm",
    run_length: RunLengthOption = "sustained",
    level: Annotated[
        str, typer.Option(help="open the prediction at: kernel, block (slots) or warp (issues)")
    ] = "kernel",
    trace: Annotated[
        Path | None,
        typer.Option(help="write the simulated blocks as a Chrome trace (.json or .json.gz)"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Bytes at every level, time, what bounds it, and memory of one schedule on one GPU."""
    from fasim.report.levels import level_dict, level_text, write_trace
    from fasim.report.predictions import prediction_text
    from fasim.verbs.predict import predict as run

    _choice("level", level, ("kernel", "block", "warp"))
    prediction = run(
        replace(
            _problem(
                batch,
                heads,
                kv_heads,
                seqlen,
                seqlen_q,
                seqlen_k,
                head_dim,
                dtype,
                causal,
                direction,
            ),
            window=_window(window),
            dropout=dropout,
        ),
        _profile(gpu, set_),
        _scenario(launch, l2, run_length),
        schedule=schedule,
        implementation=implementation,
        options=_options(tile, warps, stages, num_splits, pack_gqa, page_size, writes_kv),
        timeline=trace is not None or level == "block",
    )
    if trace is not None:
        write_trace(prediction, trace)
        _note(f"trace written to {trace}")
    if as_json:
        _print_json(prediction.to_dict() | level_dict(prediction, level))
    else:
        print(prediction_text(prediction) + level_text(prediction, level))


@app.command(
    epilog="Examples: "
    "fasim compare --gpu a100 --batch 64 --heads 16 --seqlen 1024 --head-dim 64; "
    "fasim compare --gpu a100 --gpu h100 --schedule flash2 --heads 16 --seqlen 8192 --head-dim 128"
)
def compare(
    gpu: GpusOption,
    heads: HeadsOption,
    head_dim: HeadDimOption,
    set_: SetOption = None,
    schedule: SchedulesOption = None,
    implementation: ImplementationsOption = None,
    batch: BatchOption = 1,
    kv_heads: KvHeadsOption = None,
    seqlen: SeqlenOption = None,
    seqlen_q: SeqlenQOption = None,
    seqlen_k: SeqlenKOption = None,
    dtype: DtypeOption = "fp16",
    causal: CausalOption = False,
    window: WindowOption = None,
    dropout: DropoutOption = 0.0,
    direction: DirectionOption = "forward",
    tile: TileOption = None,
    warps: WarpsOption = None,
    stages: StagesOption = None,
    num_splits: NumSplitsOption = None,
    pack_gqa: PackGqaOption = None,
    page_size: PageSizeOption = None,
    writes_kv: WritesKvOption = False,
    launch: LaunchOption = "stream",
    l2: L2Option = "warm",
    run_length: RunLengthOption = "sustained",
    as_json: JsonOption = False,
) -> None:
    """Schedules and GPUs side by side: bytes, time, memory, numerical error, ratios."""
    from fasim.report.predictions import comparison_text
    from fasim.verbs.compare import compare as run

    comparison = run(
        replace(
            _problem(
                batch,
                heads,
                kv_heads,
                seqlen,
                seqlen_q,
                seqlen_k,
                head_dim,
                dtype,
                causal,
                direction,
            ),
            window=_window(window),
            dropout=dropout,
        ),
        [_profile(name, set_) for name in gpu],
        _scenario(launch, l2, run_length),
        schedules=schedule or (),
        implementations=implementation or (),
        options=_options(tile, warps, stages, num_splits, pack_gqa, page_size, writes_kv),
    )
    _print(comparison.to_dict, lambda: comparison_text(comparison), as_json)


@app.command(
    epilog="Example: fasim validate --measured times.csv --implementation flash-attn-2 "
    "--direction forward --min-seqlen 1024"
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
    as_json: JsonOption = False,
) -> None:
    """Predicted against measured times, row by row and in groups; errors as they are."""
    from fasim.report.validations import validation_text
    from fasim.verbs.measurements import DIRECTIONS, Measurement, published
    from fasim.verbs.validate import validate as run

    if direction is not None:
        _choice("direction", direction, tuple(DIRECTIONS.values()))

    def keep(row: Measurement) -> bool:
        return (
            (not gpu or row.gpu in gpu)
            and (not implementation or row.implementation in implementation)
            and (direction is None or DIRECTIONS[row.direction] == direction)
            and (min_seqlen == 0 or int(row.fields["seqlen_k"] or 0) >= min_seqlen)
        )

    validation = run(measured or published(), keep=keep, progress=_progress("rows"))
    _print(validation.to_dict, lambda: validation_text(validation), as_json)


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
        profile=None if gpu is None else _profile(gpu, None),
    )
    _print(cache.to_dict, lambda: kv_cache_text(cache), as_json)


@study_app.command(
    "split-kv",
    epilog="Example: fasim study split-kv --gpu a100 --heads 32 --kv-heads 8 --head-dim 128",
)
def study_split_kv(
    gpu: GpuOption,
    set_: SetOption = None,
    batch: BatchOption = 1,
    heads: HeadsOption = 32,
    kv_heads: KvHeadsOption = 8,
    seqlen_q: Annotated[int, typer.Option(help="queries of a sequence")] = 1,
    head_dim: HeadDimOption = 128,
    dtype: DtypeOption = "fp16",
    launch: LaunchOption = "stream",
    l2: L2Option = "warm",
    run_length: RunLengthOption = "sustained",
    as_json: JsonOption = False,
) -> None:
    """Decode in one piece and with its keys split, over their number; where the two cross."""
    from fasim.report.studies.split_kv import split_kv_text
    from fasim.verbs.studies.split_kv import split_kv_study

    problem = _problem(batch, heads, kv_heads, None, seqlen_q, 1, head_dim, dtype, False, "forward")
    study = split_kv_study(problem, _profile(gpu, set_), _scenario(launch, l2, run_length))
    _print(study.to_dict, lambda: split_kv_text(study), as_json)


@study_app.command(
    "gpt2",
    epilog="Example: fasim study gpt2",
)
def study_gpt2(
    gpu: GpuOption = "a100-sxm4-40gb",
    set_: SetOption = None,
    launch: LaunchOption = "stream",
    l2: L2Option = "warm",
    run_length: RunLengthOption = "sustained",
    as_json: JsonOption = False,
) -> None:
    """GPT-2 medium, forward and backward, beside the FlashAttention paper's measurement."""
    from fasim.report.studies.gpt2 import gpt2_text
    from fasim.verbs.studies.gpt2 import gpt2_study

    study = gpt2_study(
        _profile(gpu, set_), _scenario(launch, l2, run_length), progress=_progress("configurations")
    )
    _print(study.to_dict, lambda: gpt2_text(study), as_json)


@study_app.command(
    "softmax", epilog="Example: fasim study softmax --gpu h100 --rows 65536 --columns 1024"
)
def study_softmax(
    gpu: GpuOption = "a100",
    set_: SetOption = None,
    rows: Annotated[int, typer.Option(help="rows of the scores")] = 65536,
    columns: Annotated[int, typer.Option(help="scores of a row")] = 8192,
    dtype: DtypeOption = "fp16",
    launch: LaunchOption = "stream",
    l2: L2Option = "warm",
    run_length: RunLengthOption = "sustained",
    as_json: JsonOption = False,
) -> None:
    """Naive, safe and online softmax: accesses an element, bytes, time, overflow."""
    from fasim.report.studies.softmax import softmax_text
    from fasim.verbs.studies.softmax import softmax_study

    study = softmax_study(
        rows,
        columns,
        _profile(gpu, set_),
        _scenario(launch, l2, run_length),
        dtype=dtype,  # type: ignore[arg-type]
    )
    _print(study.to_dict, lambda: softmax_text(study), as_json)


@study_app.command("block-size", epilog="Example: fasim study block-size")
def study_block_size(
    gpu: GpuOption = "a100-sxm4-40gb",
    set_: SetOption = None,
    launch: LaunchOption = "stream",
    l2: L2Option = "warm",
    run_length: RunLengthOption = "sustained",
    as_json: JsonOption = False,
) -> None:
    """Bytes and time of FlashAttention-1 over its block size, as in the paper's figure."""
    from fasim.report.studies.block_size import block_size_text
    from fasim.verbs.studies.block_size import block_size_study

    study = block_size_study(
        _profile(gpu, set_), _scenario(launch, l2, run_length), progress=_progress("block sizes")
    )
    _print(study.to_dict, lambda: block_size_text(study), as_json)


@study_app.command(
    "scaling", epilog="Example: fasim study scaling --gpu h100 --head-dim 128 --causal"
)
def study_scaling(
    gpu: GpuOption,
    set_: SetOption = None,
    tokens: Annotated[int, typer.Option(min=1, help="batch x sequence length")] = 16384,
    heads: HeadsOption = 16,
    kv_heads: KvHeadsOption = None,
    head_dim: HeadDimOption = 128,
    dtype: DtypeOption = "fp16",
    causal: CausalOption = False,
    direction: DirectionOption = "forward",
    launch: LaunchOption = "stream",
    l2: L2Option = "warm",
    run_length: RunLengthOption = "sustained",
    as_json: JsonOption = False,
) -> None:
    """Time, TFLOP/s and memory of the schedules over the sequence length, 128 to 64 K."""
    from fasim.report.studies.scaling import scaling_text
    from fasim.verbs.studies.scaling import scaling_study

    problem = _problem(1, heads, kv_heads, 128, None, None, head_dim, dtype, causal, direction)
    study = scaling_study(
        problem,
        _profile(gpu, set_),
        _scenario(launch, l2, run_length),
        tokens=tokens,
        progress=_progress("predictions"),
    )
    _print(study.to_dict, lambda: scaling_text(study), as_json)


@study_app.command(
    "memory",
    epilog="Example: fasim study memory --layers 24 --hidden 1024 --heads 16 --seqlen 2048 "
    "--batch 16 --gpu a100-sxm4-40gb",
)
def study_memory(
    layers: Annotated[int, typer.Option(help="layers of the model")],
    hidden: Annotated[int, typer.Option(help="elements of a token: heads x head dimension")],
    heads: HeadsOption,
    seqlen: Annotated[int, typer.Option(help="tokens of a sequence")],
    batch: BatchOption = 1,
    gpu: GpuOption = "a100",
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Memory of training a model: states, and attention's activations kept or recomputed."""
    from fasim.report.studies.memory import memory_text
    from fasim.verbs.studies.memory import memory_study

    study = memory_study(
        layers=layers,
        hidden=hidden,
        heads=heads,
        seqlen=seqlen,
        batch=batch,
        profile=_profile(gpu, set_),
    )
    _print(study.to_dict, lambda: memory_text(study), as_json)


@app.command()
def schedules(as_json: JsonOption = False) -> None:
    """The schedules, and what each needs."""
    _catalog("schedule", as_json)


@app.command()
def implementations(as_json: JsonOption = False) -> None:
    """The implementations: named kernel families, their schedule, and what each needs."""
    _catalog("implementation", as_json)


@profiles_app.command("list")
def profiles_list(as_json: JsonOption = False) -> None:
    """Every shipped GPU."""
    from fasim.report.profiles import list_dict, list_text
    from fasim.verbs.profiles import list_profiles

    rows = list_profiles()
    _print(lambda: list_dict(rows), lambda: list_text(rows), as_json)


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
    _print(lambda: sheet_dict(sheet), lambda: sheet_text(sheet), as_json)


@profiles_app.command("check")
def profiles_check(
    file: Annotated[Path, typer.Argument(metavar="FILE")], as_json: JsonOption = False
) -> None:
    """Every fault of a profile file, one a line; exit status 2 if there is any."""
    from fasim.report.profiles import check_dict, check_text
    from fasim.verbs.profiles import check_profile

    checked = check_profile(file)
    if as_json:
        _print_json(check_dict(checked))
    else:
        print(check_text(checked), file=sys.stdout if checked.ok else sys.stderr)
    if not checked.ok:
        raise typer.Exit(2)


@profiles_app.command("schema")
def profiles_schema() -> None:
    """The JSON Schema of a profile file, for editors."""
    from fasim.verbs.profiles import schema

    _print_json(schema())


def main() -> None:
    """The `fasim` command. Bad input is a line on stderr and exit status 2, never a traceback."""
    try:
        app(prog_name="fasim")
    except _input_errors() as fault:
        print(fault, file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:
        raise SystemExit(0) from None


# Parsing.


def _input_errors() -> tuple[type[Exception], ...]:
    from fasim.problem import ProblemError

    errors: list[type[Exception]] = [ProblemError]
    # Only what was imported can have been raised.
    for module, name in (
        ("fasim.hardware", "ProfileError"),
        ("fasim.schedules.plan", "Refused"),
        ("fasim.verbs.measurements", "MeasurementError"),
    ):
        if module in sys.modules:
            errors.append(getattr(sys.modules[module], name))
    return (*errors, OSError)


def _problem(
    batch: int,
    heads: int,
    kv_heads: int | None,
    seqlen: int | None,
    seqlen_q: int | None,
    seqlen_k: int | None,
    head_dim: int,
    dtype: str,
    causal: bool,
    direction: str,
) -> Attention:
    from fasim.problem import Attention, ProblemError

    queries, keys = seqlen_q or seqlen, seqlen_k or seqlen
    if queries is None or keys is None:
        raise ProblemError("give --seqlen, or both --seqlen-q and --seqlen-k")
    if kv_heads is not None and kv_heads < 1:
        raise ProblemError(f"kv_heads is {kv_heads}; it must be a whole number of 1 or more")
    return Attention(
        batch,
        heads,
        queries,
        keys,
        head_dim,
        kv_heads=kv_heads or 0,
        dtype=dtype,  # type: ignore[arg-type]
        causal=causal,
        direction=direction,  # type: ignore[arg-type]
    )


def _window(text: str | None) -> tuple[int, int] | None:
    from fasim.problem import ProblemError

    if text is None:
        return None
    try:
        left, right = (int(keys) for keys in text.split(","))
    except ValueError:
        raise ProblemError(f"--window is {text!r}; write it as 1024,0, -1 for all keys") from None
    return left, right


def _scenario(launch: str, l2: str, run_length: str) -> Scenario:
    from fasim.problem import Scenario

    return Scenario(launch, l2, run_length)  # type: ignore[arg-type]


def _profile(name: str, overrides: list[str] | None) -> Profile:
    from fasim.hardware import load, parse_overrides

    return load(name, parse_overrides(overrides or []))


def _options(
    tile: str | None,
    warps: int | None,
    stages: int | None,
    num_splits: int | None,
    pack_gqa: bool | None,
    page_size: int | None,
    writes_kv: bool,
) -> Options:
    from fasim.schedules.plan import Options
    from fasim.schedules.tiling import parse_tile

    return Options(
        tile=None if tile is None else parse_tile(tile),
        warps=warps,
        stages=stages,
        num_splits=num_splits,
        pack_gqa=pack_gqa,
        page_size=page_size,
        writes_kv=writes_kv or None,
    )


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    from fasim.problem import ProblemError

    if value not in choices:
        raise ProblemError(f"{name} is {value!r}; choose from {', '.join(choices)}")


# Printing.


def _catalog(kind: str, as_json: bool) -> None:
    from fasim.report.catalog import entries_dict, entries_text
    from fasim.schedules.catalog import IMPLEMENTATIONS, NAMED_SCHEDULES

    entries = NAMED_SCHEDULES if kind == "schedule" else IMPLEMENTATIONS
    _print(lambda: entries_dict(kind, entries), lambda: entries_text(kind, entries), as_json)


def _print(to_dict: Callable[[], Any], to_text: Callable[[], str], as_json: bool) -> None:
    if as_json:
        _print_json(to_dict())
    else:
        print(to_text())


def _print_json(document: Any) -> None:
    if isinstance(document, dict):
        for note in document.get("assumptions", ()):
            _note(note)
    print(json.dumps(document, indent=2, allow_nan=False))


def _note(text: str) -> None:
    print(text, file=sys.stderr)


def _progress(what: str) -> Callable[[int, int], None]:
    """A line on stderr that counts up, on a terminal only, after the first second."""
    import time

    started = time.monotonic()

    def show(done: int, of: int) -> None:
        if sys.stderr.isatty() and time.monotonic() - started > 1:
            print(f"\r{done} of {of} {what}", end="\n" if done == of else "", file=sys.stderr)

    return show


if __name__ == "__main__":
    main()
