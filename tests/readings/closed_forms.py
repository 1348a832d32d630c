"""What attention kernels move and multiply, counted as a reader of the papers would.

Plain loops over tiles and a mask written out pair by pair. Imports nothing from fasim: these
are the numbers that its readings must agree with.
"""

from __future__ import annotations

from dataclasses import dataclass

ROW_BYTES = 4  # LSE, row_max and row_sum are fp32

# Bytes of one kernel by tensor: (read, written).
Bytes = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Shape:
    batch: int
    heads: int
    kv_heads: int
    q_len: int
    k_len: int
    head_dim: int
    element_bytes: int
    causal: bool
    dropout: bool = False
    window: tuple[int, int] | None = None

    @property
    def masked(self) -> bool:
        return self.causal or self.window is not None

    def sees(self, row: int, key: int) -> bool:
        """Counted from the last row, which sees every key, each row sees one key fewer.

        A window is (left, right) of the key as far from the last as the row is from the last.
        """
        rows_after, keys_after = self.q_len - 1 - row, self.k_len - 1 - key
        if self.causal and keys_after < rows_after:
            return False
        left, right = self.window or (-1, -1)
        if left >= 0 and keys_after > rows_after + left:
            return False
        return right < 0 or keys_after >= rows_after - right

    def any_sees(self, rows: range, keys: range) -> bool:
        return not self.masked or any(self.sees(row, key) for row in rows for key in keys)

    @property
    def pairs(self) -> int:
        return sum(self.sees(i, j) for i in range(self.q_len) for j in range(self.k_len))

    @property
    def seeing_rows(self) -> int:
        return sum(self.any_sees(range(i, i + 1), range(self.k_len)) for i in range(self.q_len))

    @property
    def seen_keys(self) -> list[int]:
        return [j for j in range(self.k_len) if self.any_sees(range(self.q_len), range(j, j + 1))]

    @property
    def all_heads(self) -> int:
        return self.batch * self.heads

    # Whole tensors in bytes.

    @property
    def query(self) -> int:  # Q or O
        return self.all_heads * self.q_len * self.head_dim * self.element_bytes

    @property
    def key(self) -> int:  # K or V
        return self.batch * self.kv_heads * self.k_len * self.head_dim * self.element_bytes

    @property
    def seen_key(self) -> int:  # of K or V, what anything sees
        return self.key // self.k_len * len(self.seen_keys)

    @property
    def scores(self) -> int:  # S or P
        return self.all_heads * self.q_len * self.k_len * self.element_bytes

    @property
    def rows(self) -> int:  # LSE, row_max or row_sum
        return self.all_heads * self.q_len * ROW_BYTES

    @property
    def dropout_mask(self) -> int:  # a byte a score
        return self.all_heads * self.q_len * self.k_len

    @property
    def dropped(self) -> str:  # P, or its gradient, on the far side of dropout
        return "_dropped" if self.dropout else ""


@dataclass(frozen=True)
class Counted:
    kernel: str
    compulsory: Bytes
    global_: Bytes
    executed_flops: int = 0
    useful_flops: int = 0


def tiles(length: int, tile: int) -> list[range]:
    return [range(start, min(start + tile, length)) for start in range(0, length, tile)]


def ceil(a: int, b: int) -> int:
    return len(tiles(a, b))


def flash2(shape: Shape, tile_m: int, tile_n: int, compiled_head_dim: int = 0) -> list[Counted]:
    """Dao 2023, Algorithm 1: each row tile walks the key tiles that it sees."""
    d, e = shape.head_dim, shape.element_bytes
    q_read = k_read = steps = 0
    for rows in tiles(shape.q_len, tile_m):
        seen = [keys for keys in tiles(shape.k_len, tile_n) if shape.any_sees(rows, keys)]
        q_read += len(rows) * d * e if seen else 0
        k_read += sum(len(keys) for keys in seen) * d * e
        steps += len(seen)
    q_read, k_read = q_read * shape.all_heads, k_read * shape.all_heads
    width = max(d, compiled_head_dim)
    seen_query = shape.query // shape.q_len * shape.seeing_rows
    return [
        Counted(
            "flash2_forward",
            compulsory={
                "Q": (seen_query, 0),
                "K": (shape.seen_key, 0),
                "V": (shape.seen_key, 0),
                "O": (0, shape.query),
                "LSE": (0, shape.rows),
            },
            global_={
                "Q": (q_read, 0),
                "K": (k_read, 0),
                "V": (k_read, 0),
                "O": (0, shape.query),
                "LSE": (0, shape.rows),
            },
            executed_flops=shape.all_heads * steps * 4 * tile_m * tile_n * width,
            useful_flops=shape.all_heads * shape.pairs * 4 * d,
        )
    ]


def flash1(shape: Shape, tile_m: int, tile_n: int) -> list[Counted]:
    """Dao et al. 2022, Algorithm 1: line 2 writes O, l and m; each key tile walks the rows."""
    d, e = shape.head_dim, shape.element_bytes
    k_read = rows_visited = steps = 0
    for keys in tiles(shape.k_len, tile_n):
        seeing = [rows for rows in tiles(shape.q_len, tile_m) if shape.any_sees(rows, keys)]
        k_read += len(keys) * d * e if seeing else 0
        rows_visited += sum(len(rows) for rows in seeing)
        steps += len(seeing)
    heads = shape.all_heads
    matrix, vector = heads * rows_visited * d * e, heads * rows_visited * ROW_BYTES
    return [
        Counted(
            "flash1_forward",
            compulsory={
                "Q": (shape.query // shape.q_len * shape.seeing_rows, 0),
                "K": (shape.seen_key, 0),
                "V": (shape.seen_key, 0),
                "O": (0, shape.query),
                "row_max": (0, shape.rows),
                "row_sum": (0, shape.rows),
            },
            global_={
                "Q": (matrix, 0),
                "K": (heads * k_read, 0),
                "V": (heads * k_read, 0),
                "O": (matrix, shape.query + matrix),
                "row_max": (vector, shape.rows + vector),
                "row_sum": (vector, shape.rows + vector),
            },
            executed_flops=heads * steps * 4 * tile_m * tile_n * d,
            useful_flops=heads * shape.pairs * 4 * d,
        )
    ]


def query_key(
    shape: Shape, tile_m: int, tile_n: int, k_step: int, q: str = "Q", k: str = "K"
) -> Counted:
    """A GEMM: every column tile reads Q again, every row tile K; causal saves nothing."""
    down, across = ceil(shape.q_len, tile_m), ceil(shape.k_len, tile_n)
    blocks, steps = shape.all_heads * down * across, ceil(shape.head_dim, k_step)
    k_once_a_head = shape.key * shape.heads // shape.kv_heads
    return Counted(
        "query_key",
        compulsory={q: (shape.query, 0), k: (shape.key, 0), "S": (0, shape.scores)},
        global_={
            q: (across * shape.query, 0),
            k: (down * k_once_a_head, 0),
            "S": (0, shape.scores),
        },
        executed_flops=blocks * steps * 2 * tile_m * tile_n * k_step,
        useful_flops=shape.all_heads * shape.pairs * 2 * shape.head_dim,
    )


def softmax(shape: Shape, s: str = "S") -> Counted:
    moved = {s: (shape.scores, 0), "P": (0, shape.scores)}
    return Counted("softmax", compulsory=moved, global_=moved)


def dropout(shape: Shape) -> list[Counted]:
    """Read P, write it again and a byte a score."""
    if not shape.dropout:
        return []
    moved = {
        "P": (shape.scores, 0),
        "P_dropped": (0, shape.scores),
        "dropout_mask": (0, shape.dropout_mask),
    }
    return [Counted("dropout", compulsory=moved, global_=moved)]


def probability_value(
    shape: Shape, tile_m: int, tile_n: int, k_step: int, v: str = "V", o: str = "O"
) -> Counted:
    """The other GEMM; a head narrower than the tile is padded to a multiple of 32."""
    width = min(tile_n, 32 * ceil(shape.head_dim, 32))
    down, across = ceil(shape.q_len, tile_m), ceil(shape.head_dim, width)
    blocks, steps = shape.all_heads * down * across, ceil(shape.k_len, k_step)
    v_once_a_head = shape.key * shape.heads // shape.kv_heads
    p = f"P{shape.dropped}"
    return Counted(
        "probability_value",
        compulsory={p: (shape.scores, 0), v: (shape.key, 0), o: (0, shape.query)},
        global_={
            p: (across * shape.scores, 0),
            v: (down * v_once_a_head, 0),
            o: (0, shape.query),
        },
        executed_flops=blocks * steps * 2 * tile_m * width * k_step,
        useful_flops=shape.all_heads * shape.pairs * 2 * shape.head_dim,
    )


def standard(shape: Shape, tile_m: int, tile_n: int, k_step: int) -> list[Counted]:
    """Eight matrix accesses, in three kernels."""
    return [
        query_key(shape, tile_m, tile_n, k_step),
        softmax(shape),
        *dropout(shape),
        probability_value(shape, tile_m, tile_n, k_step),
    ]


def copy(name: str, size: int) -> Counted:
    source, target = ("O_copy", "O") if name == "O_copy" else (name, f"{name}_copy")
    moved = {source: (size, 0), target: (0, size)}
    return Counted(f"copy_{source}", compulsory=moved, global_=moved)


def make_mask(shape: Shape) -> list[Counted]:
    """Filled and cut in FP32, then cast."""
    scores = shape.q_len * shape.k_len
    full, cut = {"mask_full": (0, 4 * scores)}, {"mask_full": (4 * scores, 0)}
    cut["mask_fp32"] = (0, 4 * scores)
    cast = {"mask_fp32": (4 * scores, 0), "mask": (0, shape.element_bytes * scores)}
    return [
        Counted(f"mask_{name}", compulsory=moved, global_=moved)
        for name, moved in (("full", full), ("triu", cut), ("cast", cast))
    ]


def pytorch(shape: Shape, tile_m: int, tile_n: int, k_step: int) -> list[Counted]:
    """`attention_pytorch` of the FlashAttention benchmarks; the mask is one for all heads."""
    one_mask = shape.q_len * shape.k_len * shape.element_bytes
    scores = {"S": (shape.scores, 0), "S_masked": (0, shape.scores)}
    add_mask = Counted(
        "add_mask",
        compulsory={**scores, "mask": (one_mask, 0)},
        global_={**scores, "mask": (shape.all_heads * one_mask, 0)},
    )
    return [
        copy("Q", shape.query),
        copy("K", shape.key),
        query_key(shape, tile_m, tile_n, k_step, "Q_copy", "K_copy"),
        *([*make_mask(shape), add_mask] if shape.masked else []),
        softmax(shape, "S_masked" if shape.masked else "S"),
        *dropout(shape),
        copy("V", shape.key),
        probability_value(shape, tile_m, tile_n, k_step, "V_copy"),
    ]


def megatron(shape: Shape, tile_m: int, tile_n: int, k_step: int) -> list[Counted]:
    """Scale, mask and softmax in one kernel; only O is copied."""
    return [
        query_key(shape, tile_m, tile_n, k_step),
        softmax(shape),
        *dropout(shape),
        probability_value(shape, tile_m, tile_n, k_step, o="O_copy"),
        copy("O_copy", shape.query),
    ]
