"""The size of a key/value cache as text."""

from __future__ import annotations

from fasim.report.quantities import bytes_text
from fasim.verbs.kv_cache import KvCache


def kv_cache_text(cache: KvCache) -> str:
    """The cache in a line, and whether a GPU holds it in another."""
    said = (
        f"{bytes_text(cache.bytes)} of keys and values, {bytes_text(cache.per_token_bytes)} a token"
    )
    if cache.gpu is None:
        return said
    return (
        f"{said}\n{cache.gpu}: {'fits' if cache.fits else 'does not fit'} "
        f"{bytes_text(cache.capacity_bytes)}, which hold {cache.max_tokens} tokens and nothing else"
    )
