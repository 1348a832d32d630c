"""The cases that are interpreted: chosen shapes for a quick look, random ones for a full one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice
from typing import Any

from fasim.problem import Attention
from gpu_kernels.tiles import HEAD_DIMS

ARCHITECTURES = ("sm_80", "sm_90", "sm_89", "sm_100")
SOFTMAXES = ("softmax-naive", "softmax-safe", "softmax-online")
SWEEPS = ("read_sweep", "write_sweep", "add_sweep")
FACTS = ("copy", "read", "write", "exp2_rate", *SWEEPS)  # kernels that mirror no schedule
WHOLE_BLOCKS = {"exp2_rate": 8192, **dict.fromkeys(SWEEPS, 4 * 4096)}
DEFAULT_LENGTH = 300  # of random shapes under a table's tile
SMALL_LENGTH = 90  # of those under a tile of their own
SEED = 20261120


@dataclass(frozen=True)
class Case:
    """One run of a kernel, or of a chain of them.

    Attributes:
        kernel: forward, backward, standard, a softmax, decode, or a device fact's.
        problem: None for a device fact's.
        tile: rows of Q × keys; the table's for `arch` where it is None.
        interleaved: tensors lie as [batch, seqlen, heads, head_dim].
        elements: of a device fact's working set.
    """

    kernel: str
    arch: str = "sm_80"
    problem: Attention | None = None
    tile: tuple[int, int] | None = None
    num_splits: int = 1
    interleaved: bool = False
    elements: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def quick() -> Iterator[Case]:
    """Every kernel at least once: ragged, causal, grouped; the table's tile and another."""
    ragged = Attention(1, 2, 200, 330, 64, 1, causal=True)
    blind = Attention(2, 2, 170, 90, 32, causal=True, dtype="bf16")
    whole = Attention(1, 1, 256, 256, 128)
    one = Attention(1, 1, 1, 1, 16, causal=True)
    for kernel in ("forward", "backward"):
        direction = "forward" if kernel == "forward" else "backward"
        for arch, problem in zip(cycle(ARCHITECTURES), (ragged, blind, whole, one), strict=False):
            yield Case(kernel, arch, replace(problem, direction=direction))
        small = replace(ragged, seqlen_q=70, seqlen_k=100, direction=direction)
        yield Case(kernel, problem=small, tile=(32, 16), interleaved=True)
        yield Case(kernel, problem=replace(small, seqlen_k=40), tile=(16, 32))
    # Lengths at which a tile half as wide, or half as high, moves other bytes.
    yield Case("forward", "sm_80", Attention(1, 1, 256, 256, 64, causal=True))
    yield Case("forward", "sm_90", Attention(1, 1, 200, 500, 128, causal=True))
    for direction, dropout in (("forward", 0.0), ("both", 0.25)):
        problem = Attention(1, 2, 40, 70, 32, 1, causal=True, dropout=dropout, direction=direction)
        yield Case("standard", problem=problem, tile=(32, 64))
    yield Case("standard", "sm_90", Attention(1, 1, 130, 40, 64), tile=(128, 128))
    for kernel in SOFTMAXES:
        yield Case(kernel, problem=Attention(1, 2, 9, 300, 64))
    decoded = Attention(2, 4, 1, 600, 64, 2, causal=True)
    yield Case("decode", problem=decoded)
    yield Case("decode", problem=replace(decoded, seqlen_q=9, dtype="bf16"), num_splits=2)
    yield Case("decode", problem=replace(decoded, seqlen_k=90), tile=(16, 16), num_splits=4)
    for kernel in FACTS:
        yield Case(kernel, elements=WHOLE_BLOCKS.get(kernel, 9000))


def full(count: int = 240) -> Iterator[Case]:
    """The quick ones, and random shapes over all kernels until there are `count`."""
    yield from quick()
    chance = random.Random(SEED)
    kernels = ("forward", "backward", "forward", "backward", "standard", "decode", "softmax")
    wanted = count - len(list(quick()))
    for kernel in islice(cycle(kernels), wanted):
        yield _random(chance, kernel)


def _random(chance: random.Random, kernel: str) -> Case:
    if kernel == "softmax":
        problem = _problem(chance, 40, 600, causal=False)
        tile = chance.choice((None, (16, 64), (32, 128)))
        return Case(chance.choice(SOFTMAXES), problem=replace(problem, kv_heads=0), tile=tile)
    tile = chance.choice((None, *((m, n) for m in (16, 32, 64) for n in (16, 32, 64))))
    longest = DEFAULT_LENGTH if tile is None else SMALL_LENGTH
    arch = chance.choice(ARCHITECTURES)
    interleaved = chance.random() < 0.5
    if kernel == "decode":
        problem = _problem(chance, 6, 2 * longest)
        return Case(kernel, arch, problem, tile, chance.randint(1, 5), interleaved)
    if kernel == "standard":
        problem = _problem(chance, SMALL_LENGTH, SMALL_LENGTH)
        direction = chance.choice(("forward", "both"))
        dropout = chance.choice((0.0, 0.0, 0.3))
        problem = replace(problem, direction=direction, dropout=dropout, dropout_seed=7)
        return Case(kernel, arch, problem, tile or (128, 128), interleaved=interleaved)
    problem = _problem(chance, longest, longest)
    direction = "forward" if kernel == "forward" else "backward"
    return Case(kernel, arch, replace(problem, direction=direction), tile, 1, interleaved)


def _problem(chance: random.Random, rows: int, keys: int, causal: bool | None = None) -> Attention:
    """At most `rows` × `keys`; one in four with lengths that are multiples of 64, as far as fit."""
    kv_heads, group = chance.choice(((1, 1), (1, 2), (2, 1), (1, 3)))
    lengths = [chance.randint(1, rows), chance.randint(1, keys)]
    if chance.random() < 0.25:
        lengths = [-(-length // 64) * 64 for length in lengths]
    return Attention(
        batch=chance.randint(1, 2),
        heads=kv_heads * group,
        seqlen_q=lengths[0],
        seqlen_k=lengths[1],
        head_dim=chance.choice(HEAD_DIMS),
        kv_heads=kv_heads,
        dtype=chance.choice(("fp16", "bf16")),
        causal=chance.random() < 0.6 if causal is None else causal,
    )
