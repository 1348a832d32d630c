"""Standard attention: three kernels, with S and P in global memory.

Eight matrix accesses: read Q, K, write S; read S, write P; read P, V, write O. The mask is
applied inside the softmax, so a causal problem still moves and multiplies all of N².
"""

from __future__ import annotations

from fasim.problem import Attention
from fasim.schedules.chain import axes_of
from fasim.schedules.language import LOG2_E, Block, Kernel, Tensor
from fasim.schedules.mapping import Mapping

# Elements of a GEMM's contracted side per main-loop step.
K_STEP = 32


def query_key(block: Block, problem: Attention) -> None:
    """read Q, K; write S. The scale is applied in the epilogue."""
    m_rows, n_rows = block.rows("q"), block.rows("k")
    acc_s = block.full(0.0, m_rows, n_rows)
    for d_rows in block.loop("d"):
        q, k = block.load("Q", m_rows, d_rows), block.load("K", n_rows, d_rows)
        acc_s = block.matmul(q, k.T, acc=acc_s, name="S")
    block.store("S", (acc_s * problem.scale).to(problem.dtype), m_rows, n_rows)


def softmax(block: Block, problem: Attention) -> None:
    """read S; write P. Whole rows; a row that sees nothing gives zeros."""
    m_rows = block.rows("q")
    s = block.mask(block.load("S", m_rows).to("fp32"))
    row_max = s.row_max().finite() * LOG2_E
    p = (s * LOG2_E - row_max).exp2()
    block.store("P", (p * p.row_sum().inverse()).to(problem.dtype), m_rows)


def probability_value(block: Block, problem: Attention) -> None:
    """read P, V; write O."""
    m_rows, d_rows = block.rows("q"), block.rows("d")
    acc_o = block.full(0.0, m_rows, d_rows)
    for n_rows in block.loop("k"):
        p, v = block.load("P", m_rows, n_rows), block.load("V", n_rows, d_rows)
        acc_o = block.matmul(p, v, acc=acc_o, name="O")
    block.store("O", acc_o.to(problem.dtype), m_rows, d_rows)


def kernels(
    problem: Attention,
    tile_m: int,
    tile_n: int,
    gemm: Mapping,
    rows: Mapping,
    *,
    rows_per_block: int,
    k_step: int = K_STEP,
) -> tuple[Kernel, ...]:
    """The chain: QKᵀ, softmax, PV. GEMM tiles are tile_m × tile_n of the result."""
    dtype, lengths = problem.dtype, axes_of(problem)
    scores = ("batch", "head", "q", "k")
    q_tensor = Tensor("Q", ("batch", "head", "q", "d"), dtype)
    k_tensor = Tensor("K", ("batch", "kv_head", "k", "d"), dtype)
    v_tensor = Tensor("V", ("batch", "kv_head", "k", "d"), dtype)
    o_tensor = Tensor("O", ("batch", "head", "q", "d"), dtype)
    s_tensor, p_tensor = Tensor("S", scores, dtype), Tensor("P", scores, dtype)
    tile_d = min(tile_n, -(-problem.head_dim // 32) * 32)
    return (
        Kernel(
            name="query_key",
            program=query_key,
            problem=problem,
            grid=("q", "k", "head", "batch"),
            lengths=lengths,
            tiles={"q": tile_m, "k": tile_n, "d": k_step},
            tensors=(q_tensor, k_tensor, s_tensor),
            mapping=gemm,
        ),
        Kernel(
            name="softmax",
            program=softmax,
            problem=problem,
            grid=("q", "head", "batch"),
            lengths=lengths,
            tiles={"q": rows_per_block},
            tensors=(s_tensor, p_tensor),
            mapping=rows,
        ),
        Kernel(
            name="probability_value",
            program=probability_value,
            problem=problem,
            grid=("q", "d", "head", "batch"),
            lengths=lengths,
            tiles={"q": tile_m, "k": k_step, "d": tile_d},
            tensors=(p_tensor, v_tensor, o_tensor),
            mapping=gemm,
        ),
    )
