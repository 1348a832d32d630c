"""Options of the command line, and what they say: a problem, a GPU, a scenario, a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, get_args

import typer

if TYPE_CHECKING:
    from fasim.hardware import Profile
    from fasim.problem import Attention, RunLength, Scenario
    from fasim.schedules.plan import Options

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
AccumulatesGradsOption = Annotated[
    bool,
    typer.Option(
        "--accumulates-grads",
        help="gradients are added to those of earlier calls, as PyTorch does where none reset them",
    ),
]
StreamOption = Annotated[
    str,
    typer.Option(
        help="main loops as `lowered` from the program, or as `compiled`, where they are kept"
    ),
]
LaunchOption = Annotated[str, typer.Option(help="stream, graph or kernel (no launch cost)")]
L2Option = Annotated[str, typer.Option(help="warm or cold, before the first kernel")]
RunLengthOption = Annotated[
    str,
    typer.Option(
        metavar="short|sustained|TIME",
        help="before the power limit acts, after, or a time such as 5ms: of all repetitions",
    ),
]
HostOption = Annotated[
    str, typer.Option(help="inputs come over pcie or nvlink, and results go back; none: neither")
]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]


def problem_of(
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
    window: str | None = None,
    dropout: float = 0.0,
) -> Attention:
    """The problem that the options describe.

    Raises:
        ProblemError: no length, or a number or word that is none.
    """
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
        window=window_of(window),
        dropout=dropout,
    )


def window_of(text: str | None) -> tuple[int, int] | None:
    """`L,R` as two numbers of keys; None where there is no window."""
    from fasim.problem import ProblemError

    if text is None:
        return None
    try:
        left, right = (int(keys) for keys in text.split(","))
    except ValueError:
        raise ProblemError(f"--window is {text!r}; write it as 1024,0, -1 for all keys") from None
    return left, right


def scenario_of(launch: str, l2: str, run_length: str, host: str = "none") -> Scenario:
    """The scenario that the options describe."""
    from fasim.problem import Scenario

    return Scenario(launch, l2, run_length_of(run_length), host)  # type: ignore[arg-type]


def run_length_of(text: str) -> RunLength | float:
    """`short`, `sustained`, or a time in seconds."""
    from fasim.hardware.units import TIME
    from fasim.problem import ProblemError, RunLength

    if text in get_args(RunLength):
        return text  # type: ignore[return-value]
    try:
        return TIME.parse(text)
    except ValueError as fault:
        raise ProblemError(f"--run-length: {fault}; or short, or sustained") from None


def profile_of(name: str, overrides: list[str] | None) -> Profile:
    """The GPU of a name or file, with overrides written KEY=VALUE."""
    from fasim.hardware import load, parse_overrides

    return load(name, parse_overrides(overrides or []))


def options_of(
    tile: str | None,
    warps: int | None,
    stages: int | None,
    num_splits: int | None,
    pack_gqa: bool | None,
    page_size: int | None,
    writes_kv: bool,
    accumulates_grads: bool,
    stream: str = "lowered",
) -> Options:
    """What was asked of a plan."""
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
        accumulates_grads=accumulates_grads or None,
        stream=stream,  # type: ignore[arg-type]
    )


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ProblemError for a value that is none of the choices."""
    from fasim.problem import ProblemError

    if value not in choices:
        raise ProblemError(f"{name} is {value!r}; choose from {', '.join(choices)}")
