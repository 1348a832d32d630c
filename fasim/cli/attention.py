"""One attention call: what it costs, alone and side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fasim.cli.application import app
from fasim.cli.options import (
    AccumulatesGradsOption,
    BatchOption,
    CausalOption,
    DirectionOption,
    DropoutOption,
    DtypeOption,
    GpuOption,
    GpusOption,
    HeadDimOption,
    HeadsOption,
    HostOption,
    ImplementationOption,
    ImplementationsOption,
    JsonOption,
    KvHeadsOption,
    L2Option,
    LaunchOption,
    NumSplitsOption,
    PackGqaOption,
    PageSizeOption,
    RunLengthOption,
    ScheduleOption,
    SchedulesOption,
    SeqlenKOption,
    SeqlenOption,
    SeqlenQOption,
    SetOption,
    StagesOption,
    StreamOption,
    TileOption,
    WarpsOption,
    WindowOption,
    WritesKvOption,
    check_choice,
    options_of,
    problem_of,
    profile_of,
    scenario_of,
)
from fasim.cli.printing import print_json, print_note, print_result, progress_of


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
    accumulates_grads: AccumulatesGradsOption = False,
    stream: StreamOption = "lowered",
    launch: LaunchOption = "stream",
    l2: L2Option = "warm",
    run_length: RunLengthOption = "sustained",
    host: HostOption = "none",
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

    check_choice("level", level, ("kernel", "block", "warp"))
    prediction = run(
        problem_of(
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
            window,
            dropout,
        ),
        profile_of(gpu, set_),
        scenario_of(launch, l2, run_length, host),
        schedule=schedule,
        implementation=implementation,
        options=options_of(
            tile,
            warps,
            stages,
            num_splits,
            pack_gqa,
            page_size,
            writes_kv,
            accumulates_grads,
            stream,
        ),
        timeline=trace is not None or level == "block",
    )
    if trace is not None:
        write_trace(prediction, trace)
        print_note(f"trace written to {trace}")
    if as_json:
        print_json(prediction.to_dict() | level_dict(prediction, level))
    else:
        print(prediction_text(prediction) + level_text(prediction, level))


@app.command(
    epilog="Examples: "
    "fasim compare --gpu a100 --batch 64 --heads 16 --seqlen 1024 --head-dim 64; "
    "fasim compare --gpu a100 --gpu h100 --schedule flash2 --heads 16 --seqlen 8192 "
    "--head-dim 128; "
    "fasim compare --gpu h100 --all --heads 16 --seqlen 4096 --head-dim 128"
)
def compare(
    gpu: GpusOption,
    heads: HeadsOption,
    head_dim: HeadDimOption,
    set_: SetOption = None,
    schedule: SchedulesOption = None,
    implementation: ImplementationsOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="every schedule and implementation that suits")
    ] = False,
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
    accumulates_grads: AccumulatesGradsOption = False,
    launch: LaunchOption = "stream",
    l2: L2Option = "warm",
    run_length: RunLengthOption = "sustained",
    host: HostOption = "none",
    as_json: JsonOption = False,
) -> None:
    """Schedules and GPUs side by side: bytes, time, memory, numerical error, ratios."""
    from fasim.report.predictions import comparison_text
    from fasim.verbs.compare import compare as run

    comparison = run(
        problem_of(
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
            window,
            dropout,
        ),
        [profile_of(name, set_) for name in gpu],
        scenario_of(launch, l2, run_length, host),
        schedules=schedule or (),
        implementations=implementation or (),
        options=options_of(
            tile, warps, stages, num_splits, pack_gqa, page_size, writes_kv, accumulates_grads
        ),
        everything=everything,
        progress=progress_of("predictions"),
    )
    print_result(comparison.to_dict, lambda: comparison_text(comparison), as_json)
