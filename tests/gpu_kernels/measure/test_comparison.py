"""How our kernels compare: the same problem, launched alike, ours over theirs."""

from __future__ import annotations

from gpu_kernels.measure.comparison import ratios, table
from gpu_kernels.measure.row_file import COLUMNS


def row(implementation: str, time_ms: str, **cells: str) -> dict[str, str]:
    usual = {
        "gpu": "h200-sxm",
        "implementation": implementation,
        "direction": "fwd",
        "dtype": "fp16",
        "batch": "4",
        "heads": "16",
        "kv_heads": "16",
        "seqlen_q": "4096",
        "seqlen_k": "4096",
        "head_dim": "128",
        "causal": "false",
        "dropout": "0",
        "time_ms": time_ms,
        "launch": "stream",
        "l2": "warm",
    }
    return {**dict.fromkeys(COLUMNS, ""), **usual, **cells}


def test_only_the_same_problem_is_compared() -> None:
    rows = [
        row("gpu-kernels", "2.0"),
        row("gpu-kernels", "9.0", l2="cold"),
        row("gpu-kernels", "1.0", causal="true"),
        row("gpu-kernels", ""),
        row("pytorch-flash", "3.0"),
        row("cudnn", "1.0"),
    ]
    (ratio,) = ratios(rows)
    assert ratio.speed == 1.5
    assert ratio.judged
    assert ratio.reached


def test_the_aim_depends_on_direction_and_shape() -> None:
    rows = [
        row("gpu-kernels", "1.0", direction="bwd"),
        row("pytorch-flash", "0.95", direction="bwd"),
        row("gpu-kernels", "1.0"),
        row("pytorch-flash", "0.95"),
        row("gpu-kernels", "1.0", head_dim="32"),
        row("pytorch-flash", "0.5", head_dim="32"),
    ]
    backward, forward, narrow = ratios(rows)
    assert (backward.reached, forward.reached, narrow.judged) == (True, False, False)
    printed = table(rows)
    assert "fwd: at least 1x on 0 of 1" in printed
    assert "bwd: at least 0.9x on 1 of 1" in printed
    assert printed.count("below the aim") == 1


def test_nothing_to_compare_is_said() -> None:
    assert "no problem was run by both" in table([row("gpu-kernels", "1.0")])
