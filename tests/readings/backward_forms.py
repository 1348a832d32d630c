"""What backward kernels move and multiply, counted as a reader of the papers would.

As `closed_forms.py`: plain loops over tiles, and nothing from fasim.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tests.readings.closed_forms import ROW_BYTES, Bytes, Shape, ceil, tiles


@dataclass(frozen=True)
class Counted:
    """One kernel: (read, written) by tensor, and what is added atomically."""

    kernel: str
    compulsory: Bytes
    global_: Bytes
    compulsory_reduced: dict[str, int] = field(default_factory=dict)
    reduced: dict[str, int] = field(default_factory=dict)
    executed_flops: int = 0
    useful_flops: int = 0


def both_levels(kernel: str, moved: Bytes) -> Counted:
    return Counted(kernel, compulsory=moved, global_=moved)


def accumulated_query(shape: Shape) -> int:
    """dQ in fp32."""
    return shape.query // shape.element_bytes * 4


def key_outputs(shape: Shape, dk: str = "dK", dv: str = "dV") -> Bytes:
    """dK and dV, one a query head where heads share keys."""
    if shape.heads == shape.kv_heads:
        return {dk: (0, shape.key), dv: (0, shape.key)}
    each = shape.key * shape.heads // shape.kv_heads
    return {"dK_heads": (0, each), "dV_heads": (0, each)}


def group_sums(shape: Shape) -> list[Counted]:
    if shape.heads == shape.kv_heads:
        return []
    each = shape.key * shape.heads // shape.kv_heads
    return [
        both_levels(f"sum_{name}", {f"{name}_heads": (each, 0), name: (0, shape.key)})
        for name in ("dK", "dV")
    ]


@dataclass(frozen=True)
class Visited:
    """Tile pairs of one head that the mask leaves, seen from tiles of keys."""

    pairs: int
    query_rows: int  # over all pairs
    key_rows: int  # of tiles that anything sees
    seen_rows: int  # of queries, clipped to whole tiles or not


def visited(shape: Shape, tile_m: int, tile_n: int) -> Visited:
    pairs = query_rows = key_rows = 0
    for keys in tiles(shape.k_len, tile_n):
        seeing = [rows for rows in tiles(shape.q_len, tile_m) if shape.any_sees(rows, keys)]
        pairs += len(seeing)
        query_rows += sum(len(rows) for rows in seeing)
        key_rows += len(keys) if seeing else 0
    return Visited(pairs, query_rows, key_rows, shape.seeing_rows)


def flash2_backward(
    shape: Shape, tile_m: int, tile_n: int, compiled_head_dim: int = 0
) -> list[Counted]:
    """Dao 2023, Algorithm 2: each key tile walks the row tiles that see it."""
    seen, heads, row = visited(shape, tile_m, tile_n), shape.all_heads, shape.head_dim
    accum, width = accumulated_query(shape), max(row, compiled_head_dim)
    by_row = shape.query // shape.q_len * shape.seeing_rows
    vector = shape.rows // shape.q_len * shape.seeing_rows
    query_read = heads * seen.query_rows * row * shape.element_bytes
    key_read = heads * seen.key_rows * row * shape.element_bytes
    row_read = heads * seen.query_rows * ROW_BYTES
    outputs = key_outputs(shape)
    main = Counted(
        "flash2_backward",
        compulsory={
            "Q": (by_row, 0),
            "dO": (by_row, 0),
            "K": (shape.seen_key, 0),
            "V": (shape.seen_key, 0),
            "LSE": (vector, 0),
            "delta": (vector, 0),
            **outputs,
        },
        global_={
            "Q": (query_read, 0),
            "dO": (query_read, 0),
            "K": (key_read, 0),
            "V": (key_read, 0),
            "LSE": (row_read, 0),
            "delta": (row_read, 0),
            **outputs,
        },
        compulsory_reduced={"dQ_accum": accum // shape.q_len * shape.seeing_rows},
        reduced={"dQ_accum": heads * seen.query_rows * row * 4},
        executed_flops=heads * seen.pairs * 5 * 2 * tile_m * tile_n * width,
        useful_flops=heads * shape.pairs * 5 * 2 * row,
    )
    before = {
        "O": (shape.query, 0),
        "dO": (shape.query, 0),
        "delta": (0, shape.rows),
        "dQ_accum": (0, accum),
    }
    after = {"dQ_accum": (accum, 0), "dQ": (0, shape.query)}
    return [
        both_levels("preprocess", before),
        main,
        *group_sums(shape),
        both_levels("convert_dq", after),
    ]


def flash3_backward(
    shape: Shape, tile_m: int, tile_n: int, compiled_head_dim: int = 0
) -> list[Counted]:
    """FlashAttention-3's chain: LSE to the base 2 before, FP32 sums of dK and dV if heads share."""
    shared = shape.heads != shape.kv_heads
    before, main, *_, after = flash2_backward(shape, tile_m, tile_n, compiled_head_dim)
    accum = shape.key // shape.element_bytes * 4
    names = ("dK", "dV")

    def with_lse_log2(moved: Bytes) -> Bytes:
        kept = {name: both for name, both in moved.items() if name[:2] not in names}
        outputs = {} if shared else dict.fromkeys(names, (0, shape.key))
        return {**kept, **outputs, "LSE": (0, 0), "LSE_log2": moved["LSE"]}

    # Every head of a group adds a whole tensor, whether its rows see the keys or not.
    added = shape.all_heads * shape.k_len * shape.head_dim * 4
    sums = [f"{name}_accum" for name in names] if shared else []
    vectors = {"LSE": (shape.rows, 0), "LSE_log2": (0, shape.rows)}
    return [
        *(both_levels(f"zero_{name}", {name: (0, accum)}) for name in sums),
        both_levels("preprocess", {**before.global_, **vectors}),
        replace(
            main,
            kernel="flash3_backward",
            compulsory=with_lse_log2(main.compulsory),
            global_=with_lse_log2(main.global_),
            compulsory_reduced={**main.compulsory_reduced, **dict.fromkeys(sums, accum)},
            reduced={**main.reduced, **dict.fromkeys(sums, added)},
        ),
        after,
        *(
            both_levels(
                f"convert_{name.lower()}",
                {f"{name}_accum": (accum, 0), name: (0, shape.key)},
            )
            for name in (names if shared else ())
        ),
    ]


def streamed_backward(
    shape: Shape, tile_m: int, tile_n: int, *, keys_resident: bool
) -> list[Counted]:
    """xFormers v0.0.20, kernel_backward.h: five products, each loads what it multiplies.

    K_j Q_i, P dO_i, dO_i V_j, dS K_j, dS Q_i; K of the first once a block, if it stays. Every
    block goes over all of O and dO first, for delta, which it writes and reads back.
    """
    seen, heads, row = visited(shape, tile_m, tile_n), shape.all_heads, shape.head_dim
    blocks, e = ceil(shape.k_len, tile_n), shape.element_bytes
    accum = accumulated_query(shape)
    seeing = shape.seeing_rows
    by_row, vector = shape.query // shape.q_len * seeing, shape.rows // shape.q_len * seeing
    key_steps = 0  # rows of K or V over all pairs
    for keys in tiles(shape.k_len, tile_n):
        key_steps += len(keys) * sum(
            shape.any_sees(rows, keys) for rows in tiles(shape.q_len, tile_m)
        )
    query_read, key_read = heads * seen.query_rows * row * e, heads * key_steps * row * e
    first_keys = heads * seen.key_rows * row * e if keys_resident else key_read
    row_read = heads * seen.query_rows * ROW_BYTES
    outputs = key_outputs(shape)
    main = Counted(
        "streamed_backward",
        compulsory={
            "Q": (by_row, 0),
            **dict.fromkeys(("K", "V"), (shape.seen_key, 0)),
            **dict.fromkeys(("O", "dO"), (shape.query, 0)),
            "LSE": (vector, 0),
            "delta": (0, shape.rows),
            **outputs,
        },
        global_={
            "Q": (2 * query_read, 0),
            "K": (first_keys + key_read, 0),
            "V": (key_read, 0),
            "O": (blocks * shape.query, 0),
            "dO": (blocks * shape.query + 2 * query_read, 0),
            "LSE": (row_read, 0),
            "delta": (row_read, blocks * shape.rows),
            **outputs,
        },
        compulsory_reduced={"dQ_accum": accum // shape.q_len * seeing},
        reduced={"dQ_accum": heads * seen.query_rows * row * 4},
        executed_flops=heads * seen.pairs * 5 * 2 * tile_m * tile_n * row,
        useful_flops=heads * shape.pairs * 5 * 2 * row,
    )
    return [
        both_levels("zero_dq", {"dQ_accum": (0, accum)}),
        main,
        *group_sums(shape),
        both_levels("convert_dq", {"dQ_accum": (accum, 0), "dQ": (0, shape.query)}),
    ]


def flash1_backward(shape: Shape, tile_m: int, tile_n: int) -> list[Counted]:
    """Dao et al. 2022, Algorithm 4: each key tile walks the rows; dQ comes and goes."""
    seen, heads, row = visited(shape, tile_m, tile_n), shape.all_heads, shape.head_dim
    by_row = shape.query // shape.q_len * shape.seeing_rows
    vector = shape.rows // shape.q_len * shape.seeing_rows
    matrix = heads * seen.query_rows * row * shape.element_bytes
    key_read = heads * seen.key_rows * row * shape.element_bytes
    row_read = heads * seen.query_rows * ROW_BYTES
    main = Counted(
        "flash1_backward",
        compulsory={
            **dict.fromkeys(("Q", "O", "dO"), (by_row, 0)),
            **dict.fromkeys(("K", "V"), (shape.seen_key, 0)),
            **dict.fromkeys(("row_max", "row_sum"), (vector, 0)),
            "dQ": (0, shape.query),
            **key_outputs(shape),
        },
        global_={
            **dict.fromkeys(("Q", "O", "dO"), (matrix, 0)),
            **dict.fromkeys(("K", "V"), (key_read, 0)),
            **dict.fromkeys(("row_max", "row_sum"), (row_read, 0)),
            "dQ": (matrix, shape.query + matrix),
            **key_outputs(shape),
        },
        executed_flops=heads * seen.pairs * 5 * 2 * tile_m * tile_n * row,
        useful_flops=heads * shape.pairs * 5 * 2 * row,
    )
    return [main, *group_sums(shape)]


def two_pass(shape: Shape, tile_m: int, tile_n: int) -> list[Counted]:
    """Triton's tutorial: a pass over Q for dK and dV, one over K and V for dQ."""
    heads, row, e = shape.all_heads, shape.head_dim, shape.element_bytes
    seen = visited(shape, tile_m, tile_n)
    by_row = shape.query // shape.q_len * shape.seeing_rows
    vector = shape.rows // shape.q_len * shape.seeing_rows
    matrix, key_read = heads * seen.query_rows * row * e, heads * seen.key_rows * row * e
    row_read = heads * seen.query_rows * ROW_BYTES
    distinct = {
        **dict.fromkeys(("Q", "dO"), (by_row, 0)),
        **dict.fromkeys(("K", "V"), (shape.seen_key, 0)),
        **dict.fromkeys(("LSE", "delta"), (vector, 0)),
    }
    keys = Counted(
        "key_value_pass",
        compulsory={**distinct, **key_outputs(shape)},
        global_={
            **dict.fromkeys(("Q", "dO"), (matrix, 0)),
            **dict.fromkeys(("K", "V"), (key_read, 0)),
            **dict.fromkeys(("LSE", "delta"), (row_read, 0)),
            **key_outputs(shape),
        },
        executed_flops=heads * seen.pairs * 4 * 2 * tile_m * tile_n * row,
        useful_flops=heads * shape.pairs * 4 * 2 * row,
    )
    own_rows = own_keys = steps = 0
    for rows in tiles(shape.q_len, tile_m):
        walked = [keys_ for keys_ in tiles(shape.k_len, tile_n) if shape.any_sees(rows, keys_)]
        own_rows += len(rows) if walked else 0
        own_keys += sum(len(keys_) for keys_ in walked)
        steps += len(walked)
    queries = Counted(
        "query_pass",
        compulsory={**distinct, "dQ": (0, shape.query)},
        global_={
            **dict.fromkeys(("Q", "dO"), (heads * own_rows * row * e, 0)),
            **dict.fromkeys(("K", "V"), (heads * own_keys * row * e, 0)),
            **dict.fromkeys(("LSE", "delta"), (heads * own_rows * ROW_BYTES, 0)),
            "dQ": (0, shape.query),
        },
        executed_flops=heads * steps * 3 * 2 * tile_m * tile_n * row,
        useful_flops=heads * shape.pairs * 3 * 2 * row,
    )
    delta = {"O": (shape.query, 0), "dO": (shape.query, 0), "delta": (0, shape.rows)}
    return [both_levels("preprocess", delta), keys, *group_sums(shape), queries]


def one_pass(shape: Shape, tile_m: int, tile_n: int, *, parallel: bool) -> list[Counted]:
    """triton.ops: each key tile walks the rows; dQ comes and goes, or a replica of it goes."""
    seen, heads, row = visited(shape, tile_m, tile_n), shape.all_heads, shape.head_dim
    by_row = shape.query // shape.q_len * shape.seeing_rows
    vector = shape.rows // shape.q_len * shape.seeing_rows
    matrix = heads * seen.query_rows * row * shape.element_bytes
    key_read = heads * seen.key_rows * row * shape.element_bytes
    row_read = heads * seen.query_rows * ROW_BYTES
    accum, accum_seen = accumulated_query(shape), heads * shape.seeing_rows * row * 4
    steps = heads * seen.query_rows * row * 4
    replicas = ceil(shape.k_len, tile_n) * shape.query
    if parallel:
        name, zeroed, compulsory, asked = "dQ_replicas", replicas, (0, matrix), (0, matrix)
        last = "add_replicas"
    else:
        name, zeroed, compulsory, asked = "dQ_sum", accum, (accum_seen,) * 2, (steps, steps)
        last = "round_sum"
    main = Counted(
        "one_pass",
        compulsory={
            **dict.fromkeys(("Q", "dO"), (by_row, 0)),
            **dict.fromkeys(("K", "V"), (shape.seen_key, 0)),
            **dict.fromkeys(("LSE", "delta"), (vector, 0)),
            name: compulsory,
            **key_outputs(shape),
        },
        global_={
            **dict.fromkeys(("Q", "dO"), (matrix, 0)),
            **dict.fromkeys(("K", "V"), (key_read, 0)),
            **dict.fromkeys(("LSE", "delta"), (row_read, 0)),
            name: asked,
            **key_outputs(shape),
        },
        executed_flops=heads * seen.pairs * 5 * 2 * tile_m * tile_n * row,
        useful_flops=heads * shape.pairs * 5 * 2 * row,
    )
    delta = {"O": (shape.query, 0), "dO": (shape.query, 0), "delta": (0, shape.rows)}
    return [
        both_levels("zeros", {name: (0, zeroed)}),
        both_levels("preprocess", delta),
        main,
        *group_sums(shape),
        both_levels(last, {name: (zeroed, 0), "dQ": (0, shape.query)}),
    ]


@dataclass(frozen=True)
class GemmTiles:
    tile_m: int
    tile_n: int
    k_step: int


def key_gradient(
    shape: Shape, gemm: GemmTiles, kernel: str, scores: str, rows: str, out: Bytes
) -> Counted:
    """A row a key: contracted over the queries."""
    width = min(gemm.tile_n, 32 * ceil(shape.head_dim, 32))
    down, across = ceil(shape.k_len, gemm.tile_m), ceil(shape.head_dim, width)
    steps = shape.all_heads * down * across * ceil(shape.q_len, gemm.k_step)
    return Counted(
        kernel,
        compulsory={scores: (shape.scores, 0), rows: (shape.query, 0), **out},
        global_={scores: (across * shape.scores, 0), rows: (down * shape.query, 0), **out},
        executed_flops=steps * 2 * gemm.tile_m * width * gemm.k_step,
        useful_flops=shape.all_heads * shape.pairs * 2 * shape.head_dim,
    )


def query_gradient(shape: Shape, gemm: GemmTiles, k: str = "K", dq: str = "dQ") -> Counted:
    width = min(gemm.tile_n, 32 * ceil(shape.head_dim, 32))
    down, across = ceil(shape.q_len, gemm.tile_m), ceil(shape.head_dim, width)
    steps = shape.all_heads * down * across * ceil(shape.k_len, gemm.k_step)
    by_head = shape.key * shape.heads // shape.kv_heads
    moved = {"dS": (shape.scores, 0), dq: (0, shape.query)}
    return Counted(
        "query_gradient",
        compulsory={**moved, k: (shape.key, 0)},
        global_={**moved, "dS": (across * shape.scores, 0), k: (down * by_head, 0)},
        executed_flops=steps * 2 * gemm.tile_m * width * gemm.k_step,
        useful_flops=shape.all_heads * shape.pairs * 2 * shape.head_dim,
    )


def probability_gradient(shape: Shape, gemm: GemmTiles, do: str = "dO", v: str = "V") -> Counted:
    down, across = ceil(shape.q_len, gemm.tile_m), ceil(shape.k_len, gemm.tile_n)
    steps = shape.all_heads * down * across * ceil(shape.head_dim, gemm.k_step)
    by_head = shape.key * shape.heads // shape.kv_heads
    out = {f"dP{shape.dropped}": (0, shape.scores)}
    return Counted(
        "probability_gradient",
        compulsory={do: (shape.query, 0), v: (shape.key, 0), **out},
        global_={do: (across * shape.query, 0), v: (down * by_head, 0), **out},
        executed_flops=steps * 2 * gemm.tile_m * gemm.tile_n * gemm.k_step,
        useful_flops=shape.all_heads * shape.pairs * 2 * shape.head_dim,
    )


def dropout_gradient(shape: Shape) -> list[Counted]:
    """Read the gradient and a byte a score, write the gradient again."""
    if not shape.dropout:
        return []
    mask = {"dropout_mask": (shape.dropout_mask, 0)}
    moved = {"dP_dropped": (shape.scores, 0), "dP": (0, shape.scores), **mask}
    return [both_levels("dropout_gradient", moved)]


def one_output(outputs: Bytes, letter: str) -> Bytes:
    return {name: moved for name, moved in outputs.items() if name[1] == letter}


def standard_backward(shape: Shape, gemm: GemmTiles) -> list[Counted]:
    """The chain rule in five kernels: P and dP read, dS written, P and dS read again."""
    outputs = key_outputs(shape)
    scores = {"P": (shape.scores, 0), "dP": (shape.scores, 0), "dS": (0, shape.scores)}
    p = f"P{shape.dropped}"
    return [
        key_gradient(shape, gemm, "value_gradient", p, "dO", one_output(outputs, "V")),
        probability_gradient(shape, gemm),
        *dropout_gradient(shape),
        both_levels("softmax_gradient", scores),
        query_gradient(shape, gemm),
        key_gradient(shape, gemm, "key_gradient", "dS", "Q", one_output(outputs, "K")),
        *group_sums(shape),
    ]


def copy(source: str, target: str, size: int) -> Counted:
    return both_levels(f"copy_{source}", {source: (size, 0), target: (0, size)})


def scale(source: str, size: int, target: Bytes) -> Counted:
    """A factor that autograd multiplies in by a kernel of its own."""
    return both_levels(f"scale_{source}", {source: (size, 0), **target})


def into_place(shape: Shape) -> list[Counted]:
    """Gradients of one packed tensor are stacked at once; others are copied one by one."""
    sizes = {"dQ": shape.query, "dK": shape.key, "dV": shape.key}
    if shape.heads == shape.kv_heads and shape.q_len == shape.k_len:
        stacked: Bytes = {}
        for name, size in sizes.items():
            stacked |= {f"{name}_copy": (size, 0), name: (0, size)}
        return [both_levels("stack_gradients", stacked)]
    summed = group_sums(shape)
    copied = ("dQ",) if summed else ("dQ", "dK", "dV")
    return [*(copy(f"{name}_copy", name, sizes[name]) for name in copied), *summed]


def pytorch_backward(shape: Shape, gemm: GemmTiles) -> list[Counted]:
    """Autograd of `attention_pytorch`: 20 bytes a score of two bytes, and gradients moved."""
    once = shape.scores
    product = {"P": (once, 0), "dP": (once, 0), "P_dP": (0, once)}
    gradient = {"P_dP": (once, 0), "P": (once, 0), "dS": (0, once)}
    outputs = key_outputs(shape, "dK_copy", "dV_copy")
    scaled = one_output(outputs, "K")
    ((_, key_bytes),) = scaled.values()
    p = f"P{shape.dropped}"
    return [
        key_gradient(shape, gemm, "value_gradient", p, "dO", one_output(outputs, "V")),
        probability_gradient(shape, gemm, v="V_copy"),
        *dropout_gradient(shape),
        both_levels("grad_output", product),
        both_levels("softmax_gradient", gradient),
        query_gradient(shape, gemm, "K_copy", "dQ_unscaled"),
        scale("dQ_unscaled", shape.query, {"dQ_copy": (0, shape.query)}),
        key_gradient(shape, gemm, "key_gradient", "dS", "Q_copy", {"dK_unscaled": (0, key_bytes)}),
        scale("dK_unscaled", key_bytes, scaled),
        *into_place(shape),
    ]
