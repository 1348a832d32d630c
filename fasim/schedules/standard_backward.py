"""Standard attention backward: the chain rule, kernel by kernel, from the P that forward saved.

dV = PᵀdO, dP = dO·Vᵀ, dS = P ∘ (dP − rowsum(P ∘ dP)), dQ = dS·K·scale, dK = dSᵀ·Q·scale. P is 0
where the mask hides a score, and dS with it: nothing is masked again.
"""

from __future__ import annotations

from fasim.problem import Attention
from fasim.schedules.chain import QUERY, SCORES, axes_of
from fasim.schedules.dropout import after_dropout, dropout_gradient_kernels
from fasim.schedules.gradients import group_sums, key_gradients
from fasim.schedules.language import Block, Kernel, Tensor
from fasim.schedules.mapping import Mapping
from fasim.schedules.standard import Gemm, probability_value_kernel, query_key_kernel


def key_gradient_kernel(
    problem: Attention, gemm: Gemm, scores: str, rows: str, out: Tensor, scale: float, name: str
) -> Kernel:
    """out = scoresᵀ·rows·scale: a row for every key, contracted over the queries."""

    def key_gradient(block: Block, problem: Attention) -> None:
        n_rows, d_rows = block.rows("k"), block.rows("d")
        acc = block.full(0.0, n_rows, d_rows)
        for m_rows in block.loop("q"):
            p, do = block.load(scores, m_rows, n_rows), block.load(rows, m_rows, d_rows)
            acc = block.matmul(p.T, do, acc=acc, name=out.name)
        acc = acc if scale == 1 else acc * scale
        block.store(out.name, acc.to(problem.dtype), n_rows, d_rows)

    return Kernel(
        name=name,
        program=key_gradient,
        problem=problem,
        grid=("k", "d", "head", "batch"),
        lengths=axes_of(problem),
        tiles={"k": gemm.tile_m, "q": gemm.k_step, "d": gemm.head_tile(problem)},
        tensors=(
            Tensor(scores, SCORES, problem.dtype),
            Tensor(rows, QUERY, problem.dtype),
            out,
        ),
        mapping=gemm.mapped(scores, rows),
    )


def softmax_gradient_kernel(problem: Attention, mapping: Mapping, rows_per_block: int) -> Kernel:
    """read P, dP; write dS, over whole rows."""

    def softmax_gradient(block: Block, problem: Attention) -> None:
        m_rows = block.rows("q")
        p, dp = block.load("P", m_rows).to("fp32"), block.load("dP", m_rows).to("fp32")
        ds = p * (dp - (p * dp).row_sum())
        block.store("dS", ds.to(problem.dtype), m_rows)

    return Kernel(
        name="softmax_gradient",
        program=softmax_gradient,
        problem=problem,
        grid=("q", "head", "batch"),
        lengths=axes_of(problem),
        tiles={"q": rows_per_block},
        tensors=tuple(Tensor(name, SCORES, problem.dtype) for name in ("P", "dP", "dS")),
        mapping=mapping,
    )


def probability_gradient_kernel(
    problem: Attention, gemm: Gemm, do: str = "dO", v: str = "V"
) -> Kernel:
    """dP = dO·Vᵀ, of P as it came out of dropout."""
    dp = after_dropout(problem, "dP")
    return query_key_kernel(problem, gemm, do, v, dp, 1.0, "probability_gradient")


def query_gradient_kernel(
    problem: Attention, gemm: Gemm, k: str = "K", dq: str = "dQ", scale: float | None = None
) -> Kernel:
    """dQ = dS·K·scale, the problem's unless given."""
    factor = problem.scale if scale is None else scale
    return probability_value_kernel(problem, gemm, k, dq, "dS", factor, name="query_gradient")


def kernels(
    problem: Attention, gemm: Gemm, rows: Mapping, rows_per_block: int
) -> tuple[Kernel, ...]:
    """The textbook chain: dV, dP, [dropout], dS, dQ, dK, and sums over a group."""
    dk, dv = key_gradients(problem)
    p = after_dropout(problem, "P")
    return (
        key_gradient_kernel(problem, gemm, p, "dO", dv, 1.0, "value_gradient"),
        probability_gradient_kernel(problem, gemm),
        *dropout_gradient_kernels(problem, rows, rows_per_block),
        softmax_gradient_kernel(problem, rows, rows_per_block),
        query_gradient_kernel(problem, gemm),
        key_gradient_kernel(problem, gemm, "dS", "Q", dk, problem.scale, "key_gradient"),
        *group_sums(problem),
    )
