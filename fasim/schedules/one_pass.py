"""The one-pass backward of Triton's own operators: dQ without atomics, in either of two ways.

Tiles of K/V outside, rows of Q inside, five products a tile. Either a head's only block takes the
tiles in sequence, and reads, adds to and writes dQ_sum (FP32) at every step. Or there is a block
a tile, with a replica of dQ of its own in the problem's dtype, and a last kernel adds them up.
Both start from zeros: under a mask, no replica is written whole.
"""

from __future__ import annotations

from collections.abc import Callable

from fasim.problem import Attention
from fasim.schedules.chain import KEY, QUERY, ROWS, axes_of
from fasim.schedules.gradients import STREAMING, delta_kernel, group_sums, key_gradients
from fasim.schedules.language import LOG2_E, Block, Kernel, Tensor
from fasim.schedules.mapping import Mapping
from fasim.schedules.tiling import Tiling

PREPROCESS_ROWS = 128
REPLICAS = ("split", *QUERY)  # split i takes tile i of K/V
ROWS_PER_STREAMING_BLOCK = 16


def gradients(*, parallel: bool) -> Callable[[Block, Attention], None]:
    """The program of the main kernel."""

    def program(block: Block, problem: Attention) -> None:
        """read Q, K, V, dO, LSE, delta; write dK, dV; read and write dQ_sum, or dQ_replicas."""
        scale_log2 = problem.scale * LOG2_E
        dk, dv = key_gradients(problem)
        d = block.all("d")
        for n_rows in block.loop("k", within=block.rows("split") if parallel else None):
            k, v = block.load("K", n_rows), block.load("V", n_rows)
            acc_dk, acc_dv = block.full(0.0, n_rows, d), block.full(0.0, n_rows, d)
            for m_rows in block.loop("q", seen_from=n_rows):
                q, lse = block.load("Q", m_rows), block.load("LSE", m_rows)
                s = block.mask(block.matmul(q, k.T, name="S"))
                do, delta = block.load("dO", m_rows), block.load("delta", m_rows)
                p = (s * scale_log2 - lse.finite() * LOG2_E).exp2()
                p_operand = block.dropout(p).to(problem.dtype)
                acc_dv = block.matmul(p_operand.T, do, acc=acc_dv, name="dV")
                dp = block.dropout(block.matmul(do, v.T, name="dP"))
                ds = (p * (dp - delta) * problem.scale).to(problem.dtype)
                if parallel:
                    acc_dk = block.matmul(ds.T, q, acc=acc_dk, name="dK")
                    dq = block.matmul(k.T, ds.T, name="dQ").T
                    block.store("dQ_replicas", dq.to(problem.dtype), m_rows)
                else:
                    dq = block.load("dQ_sum", m_rows)
                    acc_dk = block.matmul(ds.T, q, acc=acc_dk, name="dK")
                    block.store("dQ_sum", dq + block.matmul(ds, k, name="dQ"), m_rows)
            block.store(dk.name, acc_dk.to(problem.dtype), n_rows)
            block.store(dv.name, acc_dv.to(problem.dtype), n_rows)

    return program


def add_replicas(block: Block, problem: Attention) -> None:
    """read dQ_replicas; write dQ."""
    m_rows = block.rows("q")
    total = block.full(0.0, m_rows, block.all("d"))
    for split in block.loop("split"):
        total = total + block.load("dQ_replicas", split, m_rows).to("fp32")
    block.store("dQ", total.to(problem.dtype), m_rows)


def round_sum(block: Block, problem: Attention) -> None:
    """read dQ_sum; write dQ."""
    m_rows = block.rows("q")
    block.store("dQ", block.load("dQ_sum", m_rows).to(problem.dtype), m_rows)


def kernels(
    problem: Attention, tiling: Tiling, mapping: Mapping, *, parallel: bool
) -> tuple[Kernel, ...]:
    """The chain: zeros, delta, gradients, [sums over a group], dQ.

    Args:
        parallel: a block a tile of K/V, rather than a block a head.
    """
    dtype = problem.dtype
    lengths = axes_of(problem)
    if parallel:
        lengths |= {"split": -(-problem.seqlen_k // tiling.tile_n)}
    grid = ("head", "batch", "split") if parallel else ("head", "batch")
    partial = (
        Tensor("dQ_replicas", REPLICAS, dtype) if parallel else Tensor("dQ_sum", QUERY, "fp32")
    )

    def streaming(
        name: str,
        program: Callable[[Block, Attention], None],
        tensors: tuple[Tensor, ...],
        axes: tuple[str, ...] = ("q", "head", "batch"),
    ) -> Kernel:
        tiles = {"q": ROWS_PER_STREAMING_BLOCK}
        return Kernel(name, program, problem, axes, lengths, tiles, tensors, STREAMING)

    def zeros(block: Block, _: Attention) -> None:
        m_rows = block.rows("q")
        zero = block.full(0.0, m_rows, block.all("d"))
        block.store(partial.name, zero.to(partial.dtype), m_rows)

    main = Kernel(
        name="one_pass",
        program=gradients(parallel=parallel),
        problem=problem,
        grid=grid,
        lengths=lengths,
        tiles={"q": tiling.tile_m, "k": tiling.tile_n},
        tensors=(
            Tensor("Q", QUERY, dtype),
            Tensor("K", KEY, dtype),
            Tensor("V", KEY, dtype),
            Tensor("dO", QUERY, dtype),
            Tensor("LSE", ROWS, "fp32"),
            Tensor("delta", ROWS, "fp32"),
            partial,
            *key_gradients(problem),
        ),
        mapping=mapping,
    )
    dq = Tensor("dQ", QUERY, dtype)
    return (
        streaming("zeros", zeros, (partial,), ("q", *grid)),
        delta_kernel(problem, PREPROCESS_ROWS),
        main,
        *group_sums(problem),
        streaming("add_replicas", add_replicas, (partial, dq))
        if parallel
        else streaming("round_sum", round_sum, (partial, dq)),
    )
