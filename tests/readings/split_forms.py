"""What decode and split-KV move and multiply, counted block by block.

Imports nothing from fasim, as `closed_forms.py`.
"""

from __future__ import annotations

from tests.readings.closed_forms import ROW_BYTES, Counted, Shape, ceil, tiles

ENTRY_BYTES = 4  # of a page table: int32
PARTIAL_BYTES = 4  # O_partial is fp32


def split_kv(
    shape: Shape, tile_m: int, tile_n: int, num_splits: int, packed: bool, page_size: int
) -> list[Counted]:
    """Flash-Decoding: split i takes the i-th ⌈tiles/s⌉ of the key tiles, as far as rows see them.

    Packed, the heads of a group are rows of one tile: row r is query r // group.
    """
    d, e = shape.head_dim, shape.element_bytes
    group = shape.heads // shape.kv_heads if packed else 1
    heads = shape.batch * (shape.kv_heads if packed else shape.heads)
    row_count = shape.q_len * group
    key_tiles = tiles(shape.k_len, tile_n)
    part = ceil(len(key_tiles), num_splits)
    q_rows = keys_read = entries = steps = 0
    for rows in tiles(row_count, tile_m):
        queries = range(rows[0] // group, rows[-1] // group + 1)
        for split in range(num_splits):
            own = key_tiles[split * part : (split + 1) * part]
            seen = [keys for keys in own if shape.any_sees(queries, keys)]
            q_rows += len(rows) if seen else 0
            keys_read += sum(len(keys) for keys in seen)
            if page_size:
                entries += sum(len({key // page_size for key in keys}) for keys in seen)
            steps += len(seen)
    key = heads * keys_read * d * e
    reads = {"Q": (heads * q_rows * d * e, 0), "K": (key, 0), "V": (key, 0)}
    once = {
        "Q": (shape.query // shape.q_len * shape.seeing_rows, 0),
        "K": (shape.seen_key, 0),
        "V": (shape.seen_key, 0),
    }
    if page_size:
        reads["page_table"] = (heads * entries * ENTRY_BYTES, 0)
        pages = {key // page_size for key in shape.seen_keys}
        once["page_table"] = (shape.batch * len(pages) * ENTRY_BYTES, 0)
    outputs = {"O": (0, shape.query), "LSE": (0, shape.rows)}
    o_partial = num_splits * shape.all_heads * shape.q_len * d * PARTIAL_BYTES
    lse_partial = num_splits * shape.all_heads * shape.q_len * ROW_BYTES
    partials = {"O_partial": (0, o_partial), "LSE_partial": (0, lse_partial)}
    written = outputs if num_splits == 1 else partials
    first = Counted(
        "decode" if num_splits == 1 else "split_kv",
        compulsory={**once, **written},
        global_={**reads, **written},
        executed_flops=heads * steps * 4 * tile_m * tile_n * d,
        useful_flops=shape.all_heads * shape.pairs * 4 * d,
    )
    if num_splits == 1:
        return [first]
    combined = {"O_partial": (o_partial, 0), "LSE_partial": (lse_partial, 0), **outputs}
    return [first, Counted("combine", compulsory=combined, global_=combined)]
