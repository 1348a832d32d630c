"""Decode and split-KV (Flash-Decoding, 2023): few queries over many keys.

With one query a head there is a block a head, too few to fill a GPU. Split-KV deals the keys of a
head to `num_splits` blocks; each leaves a normalised O_partial and its LSE, in FP32, and a second
kernel weighs them into O. With one split the first kernel is plain decode and writes O itself.

Packed GQA folds the query heads that share a key/value head into the rows of one tile, so that K
and V are read once and not once a query head. K and V may lie in pages: a block reads the entries
of the page table for a tile of keys, then the keys themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fasim.problem import Attention
from fasim.schedules.chain import KEY, PAGE_TABLE, axes_of
from fasim.schedules.language import Block, Kernel, Tensor
from fasim.schedules.mapping import Mapping
from fasim.schedules.online_softmax import OnlineSoftmax
from fasim.schedules.tiling import Tiling


@dataclass(frozen=True, slots=True)
class Names:
    """The tensors of queries, of their results and of LSE, where a chain copies them."""

    q: str = "Q"
    o: str = "O"
    lse: str = "LSE"


PLAIN = Names()


def attend(*, splits: bool, paged: bool, names: Names) -> Callable[[Block, Attention], None]:
    """The program of the first kernel: FlashAttention-2's loop over this split's keys."""

    def program(block: Block, problem: Attention) -> None:
        m_rows = block.rows("q")
        q = block.load(names.q, m_rows)
        softmax = OnlineSoftmax(block, m_rows, problem.scale)
        acc_o = block.full(0.0, m_rows, block.all("d"))
        within = block.rows("split") if splits else None
        for n_rows in block.loop("k", seen_from=m_rows, within=within):
            entries = block.load("page_table", block.pages(n_rows)) if paged else None
            k = block.load("K", n_rows, through=entries)
            v = block.load("V", n_rows, through=entries)
            s = block.mask(block.matmul(q, k.T, name="S"))
            p, correction = softmax.update(s)
            acc_o = block.matmul(p.to(problem.dtype), v, acc=acc_o * correction, name="O")
        o = acc_o * softmax.inverse()
        if splits:
            block.store("O_partial", o, m_rows)
            block.store("LSE_partial", softmax.lse(), m_rows)
        else:
            block.store(names.o, o.to(problem.dtype), m_rows)
            block.store(names.lse, softmax.lse(), m_rows)

    return program


def combine(o_rows: str = "O") -> Callable[[Block, Attention], None]:
    """The program of the second kernel."""

    def program(block: Block, problem: Attention) -> None:
        """read O_partial, LSE_partial; write O, LSE. A split that saw nothing has weight 0."""
        m_rows = block.rows("q")
        softmax = OnlineSoftmax(block, m_rows, scale=1.0)
        acc_o = block.full(0.0, m_rows, block.all("d"))
        for split in block.loop("split"):
            lse = block.load("LSE_partial", split, m_rows)
            o = block.load("O_partial", split, m_rows)
            weight, correction = softmax.merge(lse)
            acc_o = acc_o * correction + o * weight
        block.store(o_rows, (acc_o * softmax.inverse()).to(problem.dtype), m_rows)
        block.store("LSE", softmax.lse(), m_rows)

    return program


def write_cache(block: Block, problem: Attention) -> None:  # noqa: ARG001 - as every program
    """read K_new, V_new; write K_cached, V_cached."""
    tokens = block.rows("q")
    for name in ("K", "V"):
        block.store(f"{name}_cached", block.load(f"{name}_new", tokens), tokens)


def write_kernel(problem: Attention, mapping: Mapping) -> Kernel:
    """Writes K and V of the new tokens, one for each query, into the cache; a block a token."""
    axes = ("batch", "q", "kv_head_d")
    return Kernel(
        name="write_cache",
        program=write_cache,
        problem=problem,
        grid=("q", "batch"),
        lengths={
            "batch": problem.batch,
            "q": problem.seqlen_q,
            "kv_head_d": problem.kv_heads * problem.head_dim,
        },
        tiles={"q": 1},
        tensors=tuple(
            Tensor(f"{name}_{part}", axes, problem.dtype)
            for name in ("K", "V")
            for part in ("new", "cached")
        ),
        mapping=mapping,
    )


def splits_said(num_splits: int, chosen: bool, rule: str = "FlashAttention-2's heuristic") -> str:
    """The number of splits, and who chose it, for a plan's assumptions."""
    by = rule if chosen else "--num-splits"
    return f"{num_splits} split{'s' if num_splits > 1 else ''} of the keys, by {by}"


def kernels(
    problem: Attention,
    tiling: Tiling,
    mapping: Mapping,
    combine_rows: int = 4,
    head_dim: int = 0,
    names: Names = PLAIN,
    combining: Mapping | None = None,
) -> tuple[Kernel, ...]:
    """The chain: one kernel, and a combining one where the keys are split.

    x runs over row tiles, then splits, then heads, then batch; without splits, over batch before
    heads.

    Args:
        combine_rows: rows of one head that a block of the combining kernel takes.
        head_dim: of the compiled kernel, if it pads the problem's.
        names: the tensors of queries and of results.
        combining: how the second kernel runs; with what its program takes if not given.
    """
    dtype, splits = problem.dtype, tiling.num_splits > 1
    head, group = ("kv_head", problem.group) if tiling.pack_gqa else ("head", 1)
    query, rows = ("batch", head, "q", "d"), ("batch", head, "q")
    lengths = {
        **axes_of(problem),
        "q": problem.seqlen_q * group,
        "split": tiling.num_splits,
        "page": -(-problem.seqlen_k // tiling.page_size) if tiling.page_size else 1,
    }
    cache = tuple(Tensor(name, KEY, dtype, tiling.page_size) for name in ("K", "V"))
    table = (Tensor("page_table", PAGE_TABLE, "int32"),) if tiling.page_size else ()
    outputs = (Tensor(names.o, query, dtype), Tensor(names.lse, rows, "fp32"))
    partials = (
        Tensor("O_partial", ("batch", "split", *query[1:]), "fp32"),
        Tensor("LSE_partial", ("batch", "split", *rows[1:]), "fp32"),
    )
    first = Kernel(
        name="split_kv" if splits else "decode",
        program=attend(splits=splits, paged=bool(tiling.page_size), names=names),
        problem=problem,
        grid=("q", "split", head, "batch") if splits else ("q", "batch", head),
        lengths=lengths,
        tiles={"q": tiling.tile_m, "k": tiling.tile_n, "d": max(head_dim, problem.head_dim)},
        tensors=(Tensor(names.q, query, dtype), *cache, *table, *(partials if splits else outputs)),
        mapping=mapping,
        descending=frozenset({"k"}) if tiling.descending else frozenset(),
        group=group,
    )
    if not splits:
        return (first,)
    second = Kernel(
        name="combine",
        program=combine(names.o),
        problem=problem,
        grid=("q", head, "batch"),
        lengths=lengths,
        tiles={"q": combine_rows},
        tensors=(*partials, *outputs),
        mapping=combining
        or Mapping(4, matrix_unit="none", copy_unit="registers", source=mapping.source),
        group=group,
    )
    return first, second
