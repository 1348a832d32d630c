"""`fasim kv-cache`: the bytes of a model's key/value cache."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fasim.problem import DTYPE_BYTES, ProblemError

if TYPE_CHECKING:
    from fasim.hardware import Profile


def kv_cache_bytes(
    *, layers: int, batch: int, kv_heads: int, seqlen: int, head_dim: int, dtype: str
) -> int:
    """2 · layers · batch · kv_heads · seqlen · head_dim elements: K and V of every token.

    Raises:
        ProblemError: a number that is not positive, an unknown dtype.
    """
    numbers = {
        "layers": layers,
        "batch": batch,
        "kv_heads": kv_heads,
        "seqlen": seqlen,
        "head_dim": head_dim,
    }
    for name, value in numbers.items():
        if value < 1:
            raise ProblemError(f"{name} is {value}; it must be a whole number of 1 or more")
    if dtype not in DTYPE_BYTES:
        raise ProblemError(f"dtype is {dtype!r}; choose from {', '.join(DTYPE_BYTES)}")
    return 2 * layers * batch * kv_heads * seqlen * head_dim * DTYPE_BYTES[dtype]


@dataclass(frozen=True)
class KvCache:
    """The cache of a model, and the memory of a GPU to hold it.

    Attributes:
        per_token_bytes: what one more token of one sequence adds, over all layers.
        fits: whether the cache alone fits the GPU; None without one.
        max_tokens: tokens, over all sequences, that would.
    """

    bytes: int
    per_token_bytes: int
    gpu: str | None = None
    capacity_bytes: int | None = None
    fits: bool | None = None
    max_tokens: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def kv_cache(
    *,
    layers: int,
    batch: int,
    kv_heads: int,
    seqlen: int,
    head_dim: int,
    dtype: str = "fp16",
    profile: Profile | None = None,
) -> KvCache:
    """Bytes of a model's key/value cache, and whether they fit a GPU.

    Raises:
        ProblemError: a number that is not positive, an unknown dtype.
    """
    size = kv_cache_bytes(
        layers=layers,
        batch=batch,
        kv_heads=kv_heads,
        seqlen=seqlen,
        head_dim=head_dim,
        dtype=dtype,
    )
    per_token = size // (batch * seqlen)
    if profile is None:
        return KvCache(size, per_token)
    capacity = profile.gpu.dram.capacity_bytes
    return KvCache(
        size, per_token, profile.resolved_name, capacity, size <= capacity, capacity // per_token
    )
