"""FlashAttention-1 as its package has it: one LSE a row, FP32 sums in global memory.

Algorithms 1 and 4 of Dao et al. 2022 with the changes of the code: O and dQ wait in FP32 between
steps over K/V, are not read in a row's first step, and leave rounded in its last. The rows of a
head may be dealt in turns to several blocks.
"""

from __future__ import annotations

from fasim.problem import Attention
from fasim.schedules.chain import KEY, QUERY, ROWS, axes_of
from fasim.schedules.gradients import key_gradients
from fasim.schedules.language import LOG2_E, Block, Kernel, Steps, Tensor
from fasim.schedules.mapping import Mapping
from fasim.schedules.tiling import Tiling


def forward(block: Block, problem: Attention) -> None:
    """read Q, K, V; write O, LSE; read and write O_tmp, LSE between steps."""
    scale_log2 = problem.scale * LOG2_E
    split = block.rows("split")
    for n_rows in block.loop("k"):
        k, v = block.load("K", n_rows), block.load("V", n_rows)
        later, more = Steps("after first", n_rows), Steps("before last", n_rows)
        for m_rows in block.loop("q", seen_from=n_rows, within=split, in_turns=True):
            q, o = block.load("Q", m_rows), block.load("O_tmp", m_rows, when=later)
            lse = block.load("LSE", m_rows, when=later, otherwise=float("-inf")) * LOG2_E
            s = block.mask(block.matmul(q, k.T, name="S"))
            shift = (s.row_max() * scale_log2).maximum(lse).finite()
            p = (s * scale_log2 - shift).exp2()
            old_sum = (lse - shift).exp2()
            row_sum = old_sum + p.row_sum()
            inverse = row_sum.inverse()
            pv = block.matmul(block.dropout(p).to(problem.dtype), v, name="O")
            o = o * (old_sum * inverse) + pv * inverse
            block.store("O_tmp", o, m_rows, when=more)
            block.store("O", o.to(problem.dtype), m_rows, when=Steps("last", n_rows))
            block.store("LSE", (shift + row_sum.log2()) * (1 / LOG2_E), m_rows)


def backward(block: Block, problem: Attention) -> None:
    """read Q, K, V, O, dO, LSE; write dQ, dK, dV, delta; read and write dQ_tmp between steps."""
    scale_log2 = problem.scale * LOG2_E
    d = block.all("d")
    for n_rows in block.loop("k"):
        k, v = block.load("K", n_rows), block.load("V", n_rows)
        acc_dk, acc_dv = block.full(0.0, n_rows, d), block.full(0.0, n_rows, d)
        first, later = Steps("first", n_rows), Steps("after first", n_rows)
        for m_rows in block.loop("q", seen_from=n_rows):
            q, do = block.load("Q", m_rows), block.load("dO", m_rows)
            o, lse = block.load("O", m_rows, when=first), block.load("LSE", m_rows)
            delta = (do.to("fp32") * o.to("fp32")).row_sum()
            block.store("delta", delta, m_rows, when=first)
            delta = delta + block.load("delta", m_rows, when=later)
            dq = block.load("dQ_tmp", m_rows, when=later)
            s = block.mask(block.matmul(q, k.T, name="S"))
            p = (s * scale_log2 - lse.finite() * LOG2_E).exp2()
            p_operand = block.dropout(p).to(problem.dtype)
            dp = block.dropout(block.matmul(do, v.T, name="dP"))
            ds = (p * (dp - delta)).to(problem.dtype)
            acc_dv = block.matmul(p_operand.T, do, acc=acc_dv, name="dV")
            dq = dq + block.matmul(ds, k, name="dQ") * problem.scale
            block.store("dQ_tmp", dq, m_rows, when=Steps("before last", n_rows))
            block.store("dQ", dq.to(problem.dtype), m_rows, when=Steps("last", n_rows))
            acc_dk = block.matmul(ds.T, q, acc=acc_dk, name="dK")
        block.store("dK", (acc_dk * problem.scale).to(problem.dtype), n_rows)
        block.store("dV", acc_dv.to(problem.dtype), n_rows)


def forward_kernel(
    problem: Attention, tiling: Tiling, mapping: Mapping, grid: tuple[str, ...], head_dim: int = 0
) -> Kernel:
    """One kernel; `num_splits` blocks a head share its rows.

    Args:
        grid: of "head", "batch" and "split".
        head_dim: of the compiled kernel, if it pads the problem's.
    """
    dtype = problem.dtype
    return Kernel(
        name="flash1_forward",
        program=forward,
        problem=problem,
        grid=grid,
        lengths=axes_of(problem) | {"split": tiling.num_splits},
        tiles=_tiles(problem, tiling, head_dim),
        tensors=(
            Tensor("Q", QUERY, dtype),
            Tensor("K", KEY, dtype),
            Tensor("V", KEY, dtype),
            Tensor("O_tmp", QUERY, "fp32"),
            Tensor("O", QUERY, dtype),
            Tensor("LSE", ROWS, "fp32"),
        ),
        mapping=mapping,
    )


def backward_kernel(
    problem: Attention, tiling: Tiling, mapping: Mapping, grid: tuple[str, ...], head_dim: int = 0
) -> Kernel:
    """One kernel, a block a head: `grid` is of "head" and "batch"."""
    dtype = problem.dtype
    return Kernel(
        name="flash1_backward",
        program=backward,
        problem=problem,
        grid=grid,
        lengths=axes_of(problem),
        tiles=_tiles(problem, tiling, head_dim),
        tensors=(
            *(Tensor(name, QUERY, dtype) for name in ("Q", "O", "dO")),
            *(Tensor(name, KEY, dtype) for name in ("K", "V")),
            Tensor("LSE", ROWS, "fp32"),
            Tensor("delta", ROWS, "fp32"),
            Tensor("dQ_tmp", QUERY, "fp32"),
            Tensor("dQ", QUERY, dtype),
            *key_gradients(problem),
        ),
        mapping=mapping,
    )


def _tiles(problem: Attention, tiling: Tiling, head_dim: int) -> dict[str, int]:
    return {"q": tiling.tile_m, "k": tiling.tile_n, "d": max(head_dim, problem.head_dim)}
