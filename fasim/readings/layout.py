"""How a kernel's tensors lie in memory: query heads folded into rows, keys in pages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fasim.readings.rounding import Array
from fasim.schedules.language import Kernel, Tensor


def is_folded(tensor: Tensor) -> bool:
    """Whether the rows of "q" hold the queries of all heads that share a key/value head."""
    return "q" in tensor.axes and "kv_head" in tensor.axes


def fold(tensor: Tensor, values: Array, group: int) -> Array:
    """[…, heads, q, …] → […, kv_heads, q·group, …]: row r is query r // group."""
    at = tensor.axes.index("kv_head")
    heads, queries = values.shape[at : at + 2]
    before, after = values.shape[:at], values.shape[at + 2 :]
    apart = values.reshape(*before, heads // group, group, queries, *after)
    return apart.swapaxes(at + 1, at + 2).reshape(*before, heads // group, queries * group, *after)


def unfold(tensor: Tensor, values: Array, group: int) -> Array:
    """The inverse of `fold`."""
    at = tensor.axes.index("kv_head")
    kv_heads, rows = values.shape[at : at + 2]
    before, after = values.shape[:at], values.shape[at + 2 :]
    apart = values.reshape(*before, kv_heads, rows // group, group, *after)
    return apart.swapaxes(at + 1, at + 2).reshape(*before, kv_heads * group, rows // group, *after)


def pool_of(kernel: Kernel, tensor: Tensor) -> tuple[Tensor, dict[str, int]]:
    """A tensor that lies in pages as it is allocated, and what its axes measure."""
    pages = kernel.lengths["batch"] * kernel.lengths["page"]
    lengths = {**kernel.lengths, "page": pages, "k": tensor.page_rows}
    return replace(tensor, axes=("page", "kv_head", "k", "d")), lengths


def scatter(tensor: Tensor, values: Array, table: Array) -> Array:
    """[batch, kv_heads, k, d] → pages of a pool, NaN beyond a sequence's last key.

    Args:
        table: [batch, pages of a sequence], the number of each page in the pool.
    """
    batch, kv_heads, keys, width = values.shape
    pool = np.full((table.size, kv_heads, tensor.page_rows, width), np.nan, np.float32)
    for sequence in range(batch):
        for number, page in enumerate(table[sequence].astype(int)):
            rows = slice(number * tensor.page_rows, min(keys, (number + 1) * tensor.page_rows))
            pool[page, :, : rows.stop - rows.start] = values[sequence, :, rows]
    return pool


def random_page_table(batch: int, pages: int, seed: int = 0) -> Array:
    """[batch, pages]: every sequence's pages, anywhere in the pool."""
    shuffled = np.random.default_rng(seed).permutation(batch * pages)
    return shuffled.reshape(batch, pages).astype(np.float32)
