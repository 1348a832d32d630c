"""Studies: a question that takes many predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fasim.cli.application import study_app
from fasim.cli.options import (
    BatchOption,
    CausalOption,
    DirectionOption,
    DtypeOption,
    GpuOption,
    HeadDimOption,
    HeadsOption,
    JsonOption,
    KvHeadsOption,
    L2Option,
    LaunchOption,
    RunLengthOption,
    SetOption,
    problem_of,
    profile_of,
    scenario_of,
)
from fasim.cli.printing import print_result, progress_of


@study_app.command(
    "ablation",
    epilog="Example: fasim study ablation --rows-per-group 4",
)
def study_ablation(
    measured: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="a CSV of measurements; the published ones if unset"),
    ] = None,
    mechanism: Annotated[
        list[str] | None,
        typer.Option(metavar="MECHANISM", help="only this one; repeatable; all if unset"),
    ] = None,
    rows_per_group: Annotated[
        int,
        typer.Option(help="rows of each GPU, implementation, direction and mask; 0: all", min=0),
    ] = 4,
    as_json: JsonOption = False,
) -> None:
    """Errors against measurements with each mechanism of the model switched off by itself."""
    from fasim.cli.validation import cores
    from fasim.report.studies.ablation import ablation_text
    from fasim.verbs.measured.measurements import published
    from fasim.verbs.studies.ablation import ablation_study

    study = ablation_study(
        measured or published(),
        mechanisms=mechanism or (),
        rows_per_group=rows_per_group or None,
        processes=cores(),
        progress=progress_of("validations"),
    )
    print_result(study.to_dict, lambda: ablation_text(study), as_json)


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

    problem = problem_of(
        batch, heads, kv_heads, None, seqlen_q, 1, head_dim, dtype, False, "forward"
    )
    study = split_kv_study(problem, profile_of(gpu, set_), scenario_of(launch, l2, run_length))
    print_result(study.to_dict, lambda: split_kv_text(study), as_json)


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
        profile_of(gpu, set_),
        scenario_of(launch, l2, run_length),
        progress=progress_of("configurations"),
    )
    print_result(study.to_dict, lambda: gpt2_text(study), as_json)


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
        profile_of(gpu, set_),
        scenario_of(launch, l2, run_length),
        dtype=dtype,  # type: ignore[arg-type]
    )
    print_result(study.to_dict, lambda: softmax_text(study), as_json)


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
        profile_of(gpu, set_),
        scenario_of(launch, l2, run_length),
        progress=progress_of("block sizes"),
    )
    print_result(study.to_dict, lambda: block_size_text(study), as_json)


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

    problem = problem_of(1, heads, kv_heads, 128, None, None, head_dim, dtype, causal, direction)
    study = scaling_study(
        problem,
        profile_of(gpu, set_),
        scenario_of(launch, l2, run_length),
        tokens=tokens,
        progress=progress_of("predictions"),
    )
    print_result(study.to_dict, lambda: scaling_text(study), as_json)


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
        profile=profile_of(gpu, set_),
    )
    print_result(study.to_dict, lambda: memory_text(study), as_json)
