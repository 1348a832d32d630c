"""The drift gate: predictions that may not move unseen.

`python -m tests.drift` writes them anew, into `drift.json` beside this file. A change of the model
that moves one by more than 0.5 % brings the file along in the same commit, and says why.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import fasim

GOLDEN = Path(__file__).with_name("drift.json")
TOLERANCE = 0.005

TRAINING = ((8, 16, 512), (4, 16, 2048), (1, 16, 8192))  # batch, heads, seqlen
GPUS = ("a100-sxm4-80gb", "h100-sxm5", "rtx4090")
FORWARD = ("flash-attn-2", "triton", "pytorch", "xformers-cutlass")
BACKWARD = ("flash-attn-2", "flash-attn-1", "pytorch")
HOPPER = ("flash-attn-3", "cudnn")


def cases() -> Iterator[tuple[str, str, str, fasim.Attention]]:
    """Name, GPU, implementation and problem of each prediction."""
    for batch, heads, seqlen in TRAINING:
        for gpu in GPUS:
            for implementation in FORWARD:
                yield _case(gpu, implementation, batch, heads, seqlen, 128)
            yield _case(gpu, "flash-attn-2", batch, heads, seqlen, 64, causal=True)
        for implementation in BACKWARD:
            yield _case(GPUS[0], implementation, batch, heads, seqlen, 64, direction="backward")
            yield _case(
                GPUS[0], implementation, batch, heads, seqlen, 64, causal=True, direction="backward"
            )
        for implementation in HOPPER:
            for causal in (False, True):
                yield _case("h100-sxm5", implementation, batch, heads, seqlen, 128, causal=causal)
        yield _case("h200-sxm", "flash-attn-3", batch, heads, seqlen, 64)
        yield _case("l40s", "flash-attn-2", batch, heads, seqlen, 64)
        yield _case("a100-sxm4-40gb", "megatron", batch, heads, seqlen, 64)
    for batch, seqlen in ((1, 2048), (16, 8192), (128, 1024)):
        for gpu in GPUS:
            decode = fasim.Attention(batch, 32, 1, seqlen, 128, kv_heads=8, causal=True)
            yield f"{gpu} flash-attn-2 decode {batch} x {seqlen}", gpu, "flash-attn-2", decode


def _case(
    gpu: str, implementation: str, batch: int, heads: int, seqlen: int, head_dim: int, **options
) -> tuple[str, str, str, fasim.Attention]:
    said = " ".join(
        "causal" if value is True else str(value) for value in options.values() if value
    )
    name = f"{gpu} {implementation} {batch} x {heads} x {seqlen} d{head_dim} {said}".strip()
    return (
        name,
        gpu,
        implementation,
        fasim.Attention(batch, heads, seqlen, seqlen, head_dim, **options),
    )


def predicted() -> dict[str, dict[str, float]]:
    """Milliseconds and DRAM bytes of every case."""
    return predicted_cases(1)


def predicted_cases(every: int) -> dict[str, dict[str, float]]:
    """Milliseconds and DRAM bytes of one case in so many."""
    found = {}
    for name, gpu, implementation, problem in islice(cases(), 0, None, every):
        prediction = fasim.predict(problem, fasim.load(gpu), implementation=implementation)
        moved = prediction.traffic["dram"].values()
        found[name] = {
            "time_ms": float(f"{prediction.fitting_time_s * 1e3:.6g}"),
            "dram_bytes": sum(a.read_bytes + a.write_bytes + a.reduce_bytes for a in moved),
        }
    return found


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(predicted(), indent=1) + "\n", encoding="utf-8")
