"""Which version of an implementation a measured row ran, and what its script did besides.

The row's `software` says when it was measured. A later reader's name for what ran, such as
`triton`, may by then stand for other kernels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fasim.verbs.measured.measurements import Measurement


@dataclass(frozen=True, slots=True)
class Version:
    """A version that rows ran.

    Attributes:
        implementation, software: of the rows, as they are written.
        modelled_by: the implementation of fasim that has its kernels.
        source: how it is known.
    """

    implementation: str
    software: str
    modelled_by: str
    source: str


VERSIONS = (
    Version(
        "triton",
        "FA v2.0 (Jul 2023)",
        "triton-2.1",
        "The benchmark of FlashAttention-2 imports triton.ops.flash_attention, and takes the "
        "faster of its two backwards (from memory). Triton 2.0.0 (2023-03) has no head_dim 128 "
        "and always masks, so it was a version on the way to 2.1.0 (2023-09); the tutorial's "
        "backward in two passes came after.",
    ),
    *(
        Version(
            "triton",
            software,
            "triton-autotuned",
            "The tutorial's forward kernel is autotuned since 2024-05.",
        )
        for software in (
            "FA3 beta (Jul 2024); other versions not read",
            "triton main",
            "triton main (warp_specialize=False)",
        )
    ),
    *(
        Version(
            "flash-attn-1",
            software,
            "flash-attn-0.1",
            "The paper of May and June 2022 ran the first release; a head's rows are dealt to "
            "several blocks since 2022-10.",
        )
        for software in ("FlashAttention 2022", "FlashAttention 2022, first arXiv version")
    ),
)
_MODELLED_BY = {(each.implementation, each.software): each.modelled_by for each in VERSIONS}


def modelled_by(measurement: Measurement) -> str:
    """The implementation that predicts a row: of the version it ran, else the one it names."""
    name = measurement.implementation
    return _MODELLED_BY.get((name, measurement.fields.get("software", "")), name)


ACCUMULATING = (
    # fn = lambda: o.backward(do, retain_graph=True), timed by do_bench without grad_to_none.
    "triton-lang.org/main/getting-started/tutorials/06-fused-attention",
    # The script is not given. Inferred: what its backward rows take beyond the kernels grows with
    # head_dim alone, as three tensors read twice and written once do, with a mask and without;
    # TileLang's examples time O.backward(dO, retain_graph=True) by a do_bench (from memory).
    "tl_doc/flash_perf.md",
)
"""Sources whose scripts time a backward pass without resetting gradients between calls."""


def accumulates_grads(measurement: Measurement) -> bool:
    """Whether a row's time includes adding gradients to those of the call before."""
    source = measurement.fields.get("source", "")
    return measurement.direction != "fwd" and any(each in source for each in ACCUMULATING)


def versions_said(measurements: Iterable[Measurement]) -> list[str]:
    """A line for every version that rows were predicted as, with their number."""
    counts: dict[tuple[str, str, str], int] = {}
    rows = list(measurements)
    for row in rows:
        model = modelled_by(row)
        if model != row.implementation:
            key = (row.implementation, model, row.fields["software"])
            counts[key] = counts.get(key, 0) + 1
    lines = [
        f"{count} rows of {name} predicted by {model}: {software}"
        for (name, model, software), count in counts.items()
    ]
    adding = sum(row.options.accumulates_grads is True for row in rows)
    if adding:
        lines.append(f"{adding} rows predicted with gradients added to those of the call before")
    return lines
