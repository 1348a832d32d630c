"""FlashAttention-3 backward (Shah et al. 2024): FlashAttention-2's loop over Q, mapped for Hopper.

What the package's kernels do otherwise: LSE is brought to the base 2 once, by the kernel before;
and where heads share keys, their blocks add dK and dV up in FP32, as they do dQ, and kernels
after round the sums.
"""

from __future__ import annotations

from fasim.problem import Attention
from fasim.schedules.chain import KEY, QUERY, ROWS, axes_of
from fasim.schedules.flash2_backward import log2_of, walk_queries
from fasim.schedules.gradients import STREAMING, convert_kernel
from fasim.schedules.language import Block, Kernel, Tensor
from fasim.schedules.mapping import Mapping
from fasim.schedules.tiling import Tiling

# Blocks of the row-wise kernels, rows fastest, then heads.
BY_QUERY = ("q", "head", "batch")
BY_KEY = ("k", "kv_head", "batch")


def preprocess(block: Block, _: Attention) -> None:
    """read O, dO, LSE; write delta = rowsum(dO ∘ O), LSE_log2, and zeros to add dQ up in."""
    m_rows = block.rows("q")
    o, do = block.load("O", m_rows), block.load("dO", m_rows)
    block.store("delta", (o.to("fp32") * do.to("fp32")).row_sum(), m_rows)
    block.store("LSE_log2", log2_of(block.load("LSE", m_rows)), m_rows)
    block.store("dQ_accum", block.full(0.0, m_rows, block.all("d")), m_rows)


def flash3_backward(block: Block, problem: Attention) -> None:
    """read Q, K, V, dO, LSE_log2, delta; add to dQ_accum; write dK, dV, or add to their sums."""
    n_rows = block.rows("k")
    acc_dk, acc_dv = walk_queries(block, problem, n_rows, "LSE_log2", lambda lse_log2: lse_log2)
    if problem.group > 1:
        block.reduce("dK_accum", acc_dk, n_rows)
        block.reduce("dV_accum", acc_dv, n_rows)
    else:
        block.store("dK", (acc_dk * problem.scale).to(problem.dtype), n_rows)
        block.store("dV", acc_dv.to(problem.dtype), n_rows)


def kernels(
    problem: Attention, tiling: Tiling, mapping: Mapping, head_dim: int = 0
) -> tuple[Kernel, ...]:
    """The chain: [zeros for dK and dV,] preprocess, gradients, the rounding of FP32 sums.

    Args:
        tiling: `descending` is the direction of the loop over Q.
        head_dim: of the compiled kernel, if it pads the problem's.
    """
    dtype, lengths = problem.dtype, axes_of(problem)
    o, do, q = (Tensor(name, QUERY, dtype) for name in ("O", "dO", "Q"))
    lse, lse_log2, delta = (Tensor(name, ROWS, "fp32") for name in ("LSE", "LSE_log2", "delta"))
    dq_accum = Tensor("dQ_accum", QUERY, "fp32")
    shared = problem.group > 1
    gradients = ("dK_accum", "dV_accum") if shared else ("dK", "dV")
    before = Kernel(
        name="preprocess",
        program=preprocess,
        problem=problem,
        grid=BY_QUERY,
        lengths=lengths,
        tiles={"q": tiling.tile_m},
        tensors=(o, do, lse, delta, lse_log2, dq_accum),
        mapping=STREAMING,
    )
    main = Kernel(
        name="flash3_backward",
        program=flash3_backward,
        problem=problem,
        grid=("k", "head", "batch"),
        lengths=lengths,
        tiles={"q": tiling.tile_m, "k": tiling.tile_n, "d": max(head_dim, problem.head_dim)},
        tensors=(
            q,
            Tensor("K", KEY, dtype),
            Tensor("V", KEY, dtype),
            do,
            lse_log2,
            delta,
            dq_accum,
            *(Tensor(name, KEY, "fp32" if shared else dtype) for name in gradients),
        ),
        mapping=mapping,
        descending=frozenset({"q"}) if tiling.descending else frozenset(),
    )
    dq = convert_kernel(problem, "dQ", tiling.tile_m, BY_QUERY, problem.scale)
    if not shared:
        return before, main, dq
    zeros = (_zero_kernel(problem, name, tiling.tile_n) for name in gradients)
    dk = convert_kernel(problem, "dK", tiling.tile_n, BY_KEY, problem.scale)
    dv = convert_kernel(problem, "dV", tiling.tile_n, BY_KEY)
    return (*zeros, before, main, dq, dk, dv)


def _zero_kernel(problem: Attention, name: str, rows_per_block: int) -> Kernel:
    """write zeros where the blocks of a group's heads will add up."""

    def zero(block: Block, _: Attention) -> None:
        n_rows = block.rows("k")
        block.store(name, block.full(0.0, n_rows, block.all("d")), n_rows)

    return Kernel(
        name=f"zero_{name}",
        program=zero,
        problem=problem,
        grid=BY_KEY,
        lengths=axes_of(problem),
        tiles={"k": rows_per_block},
        tensors=(Tensor(name, KEY, "fp32"),),
        mapping=STREAMING,
    )
