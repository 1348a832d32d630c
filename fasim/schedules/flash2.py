"""FlashAttention-2 forward (Dao 2023, Algorithm 1): outer loop over Q, one block a row tile.

O stays in registers and is written once, with one LSE a row; causal blocks that see nothing
are skipped and only those on the diagonal are masked.
"""

from __future__ import annotations

from fasim.problem import Attention
from fasim.schedules.chain import KEY, QUERY, ROWS, axes_of
from fasim.schedules.language import Block, Kernel, Tensor
from fasim.schedules.mapping import Mapping
from fasim.schedules.online_softmax import OnlineSoftmax
from fasim.schedules.tiling import Tiling


def flash2_forward(block: Block, problem: Attention) -> None:
    """read Q, K, V; write O, LSE."""
    m_rows = block.rows("q")
    q = block.load("Q", m_rows)
    softmax = OnlineSoftmax(block, m_rows, problem.scale)
    acc_o = block.full(0.0, m_rows, block.all("d"))
    for n_rows in block.loop("k", seen_from=m_rows):
        k, v = block.load("K", n_rows), block.load("V", n_rows)
        s = block.mask(block.matmul(q, k.T, name="S"))
        p, correction = softmax.update(s)
        p = block.dropout(p).to(problem.dtype)
        acc_o = block.matmul(p, v, acc=acc_o * correction, name="O")
    block.store("O", (acc_o * softmax.inverse()).to(block.dtype("O")), m_rows)
    block.store("LSE", softmax.lse(), m_rows)


def kernels(
    problem: Attention,
    tiling: Tiling,
    mapping: Mapping,
    head_dim: int = 0,
    *,
    name: str = "flash2_forward",
    output_dtype: str = "",
) -> tuple[Kernel, ...]:
    """The chain: one kernel. x runs over row tiles, then batch, then heads.

    Args:
        head_dim: of the compiled kernel, if it pads the problem's.
        name: of the kernel.
        output_dtype: of O, if it is not that of the inputs.
    """
    dtype = problem.dtype
    return (
        Kernel(
            name=name,
            program=flash2_forward,
            problem=problem,
            grid=("q", "batch", "head"),
            lengths=axes_of(problem),
            tiles={
                "q": tiling.tile_m,
                "k": tiling.tile_n,
                "d": max(head_dim, problem.head_dim),
            },
            tensors=(
                Tensor("Q", QUERY, dtype),
                Tensor("K", KEY, dtype),
                Tensor("V", KEY, dtype),
                Tensor("O", QUERY, output_dtype or dtype),
                Tensor("LSE", ROWS, "fp32"),
            ),
            mapping=mapping,
            descending=frozenset({"k"}) if tiling.descending else frozenset(),
        ),
    )
