"""The table in docs/accuracy.md of groups of rows that are off, or were: from where to where.

`python -m tests.misses` writes it anew from the rows that `fasim validate` prints above it. What is
believed missing stands below it, in words.
"""

from __future__ import annotations

import statistics

from fasim.verbs.measured.measurement_file import read
from fasim.verbs.measured.measurements import Measurement, published
from tests.aims import DOCUMENT, Row, printed_errors

BEGIN, END = "<!-- misses -->\n", "<!-- /misses -->\n"
HEADER = ("| rows | n | from | median | to |", "|---|---|---|---|---|")


def _rows(
    *names: str,
    gpu: str = "",
    direction: str = "",
    seqlen: tuple[int, int] = (2, 1 << 30),
    head_dim: int = 0,
    causal: bool | None = None,
    where: Row = lambda _: True,
) -> Row:
    """Rows of these implementations, with so many queries, and as said."""

    def among(row: Measurement) -> bool:
        problem = row.problem
        return (
            row.implementation in names
            and row.gpu.startswith(gpu)
            and direction in ("", row.direction)
            and seqlen[0] <= problem.seqlen_q <= seqlen[1]
            and head_dim in (0, problem.head_dim)
            and causal in (None, problem.causal)
            and where(row)
        )

    return among


def _brief(row: Measurement) -> bool:
    return row.time_ms is not None and row.time_ms < 0.1


def _one_kv_head(row: Measurement) -> bool:
    return row.problem.kv_heads == 1


EAGER = ("pytorch", "megatron")
MISSES: tuple[tuple[str, Row], ...] = (
    (
        "`pytorch`, `megatron` of 2022, S ≤ 512",
        _rows(*EAGER, gpu="a100-sxm4-40gb", seqlen=(2, 512)),
    ),
    (
        "`pytorch`, `megatron` of 2022, S ≥ 1024",
        _rows(*EAGER, gpu="a100-sxm4-40gb", seqlen=(1024, 1 << 30)),
    ),
    ("`pytorch` of 2023, A100", _rows("pytorch", gpu="a100-sxm4-80gb")),
    ("`pytorch` of 2024, H100, no mask", _rows("pytorch", gpu="h100", causal=False)),
    ("`pytorch` of 2024, H100, causal", _rows("pytorch", gpu="h100", causal=True)),
    ("`flash-attn-1`, A100 80 GB", _rows("flash-attn-1", gpu="a100-sxm4-80gb")),
    ("`triton` of 2023, forward and backward", _rows("triton", direction="fwd+bwd")),
    ("`triton` of 2024 and later, forward, A100", _rows("triton", gpu="a100", direction="fwd")),
    ("`triton` of 2024, forward, H100", _rows("triton", gpu="h100", direction="fwd")),
    ("`triton`, backward alone", _rows("triton", direction="bwd")),
    ("`flash-attn-2`, A100, d = 64, both ways", _rows("flash-attn-2", gpu="a100", head_dim=64)),
    (
        "`flash-attn-2`, A100, d = 128, both ways",
        _rows("flash-attn-2", gpu="a100", head_dim=128, direction="fwd+bwd"),
    ),
    (
        "`flash-attn-2` in vLLM, prefill, one key/value head",
        _rows("flash-attn-2", gpu="a100", direction="fwd", where=_one_kv_head),
    ),
    (
        "`flash-attn-2` in vLLM, prefill, several",
        _rows("flash-attn-2", gpu="a100", direction="fwd", where=lambda r: not _one_kv_head(r)),
    ),
    ("decode under 0.1 ms", _rows("flash-attn-2", seqlen=(1, 1), where=_brief)),
    ("decode from 0.1 ms", _rows("flash-attn-2", seqlen=(1, 1), where=lambda r: not _brief(r))),
    ("`flash-attn-2`, H100", _rows("flash-attn-2", gpu="h100")),
    ("`flash-attn-3`, H100", _rows("flash-attn-3")),
    ("`cudnn`, H100", _rows("cudnn", gpu="h100")),
    ("`cudnn`, H200", _rows("cudnn", gpu="h200")),
    (
        "RTX 4090 forward, no mask",
        _rows("flash-attn-2", gpu="rtx4090", direction="fwd", causal=False),
    ),
    (
        "RTX 4090 forward, causal",
        _rows("flash-attn-2", gpu="rtx4090", direction="fwd", causal=True),
    ),
    ("RTX 4090 backward", _rows("flash-attn-2", gpu="rtx4090", direction="bwd")),
)


def table() -> str:
    """The table, from the rows printed in the document."""
    errors = printed_errors()
    measured = {row.id: row for row in read(published()).rows}
    lines = list(HEADER)
    for name, among in MISSES:
        found = sorted(error for id_, error in errors.items() if among(measured[id_]))
        figures = (found[0], statistics.median(found), found[-1])
        said = " | ".join(f"{error * 100:+.1f} %".replace("-", "−") for error in figures)
        lines.append(f"| {name} | {len(found)} | {said} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(before + BEGIN + table() + END + after, encoding="utf-8")
