"""The attention problems of a suite, and who runs each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from fasim.problem import Attention, Dtype

TOKENS = 16384  # batch × seqlen of the published tables, with 2048 / head_dim heads
WIDTH = 2048
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
STANDARD_LENGTHS = (512, 1024, 2048, 4096)  # scores in memory, 16 bit: up to 4 GiB
FUSED = ("gpu-kernels", "pytorch-flash", "cudnn", "pytorch-math")
DECODERS = ("gpu-kernels-decode", "gpu-kernels-split-kv", "pytorch-flash", "cudnn", "pytorch-math")
STANDARD = "gpu-kernels-standard"
State = tuple[str, str]  # launch, L2
STREAM: tuple[State, ...] = (("stream", "warm"), ("stream", "cold"))
GRAPH: tuple[State, ...] = (*STREAM, ("graph", "warm"))


@dataclass(frozen=True)
class AttentionCase:
    """One problem in one direction, who runs it, and how each is launched."""

    problem: Attention
    implementations: tuple[str, ...]
    states: tuple[State, ...]

    def states_of(self, implementation: str) -> tuple[State, ...]:
        """PyTorch's backward runs on streams of autograd's own choice: in no graph."""
        if implementation.startswith("gpu-kernels") or self.problem.direction == "forward":
            return self.states
        return tuple((launch, l2) for launch, l2 in self.states if launch != "graph")


def published(seqlen: int, head_dim: int, causal: bool, dtype: Dtype) -> Attention:
    """A problem of the tables of FlashAttention-2 and -3."""
    heads = WIDTH // head_dim
    return Attention(TOKENS // seqlen, heads, seqlen, seqlen, head_dim, dtype=dtype, causal=causal)


def both(case: AttentionCase) -> Iterator[AttentionCase]:
    """Forward, then backward."""
    yield case
    yield replace(case, problem=replace(case.problem, direction="backward"))


def benchmark() -> Iterator[AttentionCase]:
    """(4, 48, 4096, 32), the well-known benchmark of a Triton kernel."""
    for causal in (False, True):
        problem = Attention(4, 48, 4096, 4096, 32, causal=causal)
        yield from both(AttentionCase(problem, (*FUSED, STANDARD), STREAM))


def decoding(batch: int, seqlen_k: int, kv_heads: int = 8) -> AttentionCase:
    """One query against a cache, 32 heads of 128."""
    problem = Attention(batch, 32, 1, seqlen_k, 128, kv_heads, "bf16")
    return AttentionCase(problem, DECODERS, GRAPH)


def grouped(seqlen: int, causal: bool) -> AttentionCase:
    """Four query heads to each of eight key/value heads, 16k tokens."""
    problem = Attention(TOKENS // seqlen, 32, seqlen, seqlen, 128, 8, "bf16", causal)
    return AttentionCase(problem, FUSED, STREAM)


def quick() -> Iterator[AttentionCase]:
    """A few minutes: the shapes that tell most."""
    yield from benchmark()
    for seqlen, head_dim, causal in product((1024, 4096), (64, 128), (False, True)):
        problem = published(seqlen, head_dim, causal, "fp16")
        yield from both(AttentionCase(problem, FUSED, STREAM))
    yield from both(AttentionCase(published(4096, 128, True, "bf16"), FUSED, STREAM))
    yield from both(AttentionCase(published(1024, 64, False, "fp16"), (STANDARD,), STREAM))
    yield from both(grouped(4096, True))
    yield decoding(1, 16384)
    yield decoding(16, 4096)


def full() -> Iterator[AttentionCase]:
    """The published tables, standard attention, grouped heads, decoding."""
    yield from benchmark()
    for seqlen, head_dim, causal in product(LENGTHS, (64, 128), (False, True)):
        for dtype in ("fp16", "bf16"):
            problem = published(seqlen, head_dim, causal, dtype)
            yield from both(AttentionCase(problem, FUSED, GRAPH))
    for seqlen, head_dim, causal in product(STANDARD_LENGTHS, (64, 128), (False, True)):
        problem = published(seqlen, head_dim, causal, "fp16")
        yield from both(AttentionCase(problem, (STANDARD,), STREAM))
    for seqlen, causal in product((1024, 4096, 16384), (False, True)):
        yield from both(grouped(seqlen, causal))
    for batch, seqlen_k in product((1, 16, 64), (1024, 4096, 16384, 65536)):
        yield decoding(batch, seqlen_k)
    for batch, seqlen_k in ((1, 16384), (16, 4096)):
        yield decoding(batch, seqlen_k, kv_heads=32)


SUITES = {"quick": quick, "full": full}
