"""FlashAttention-2's loop order as CUTLASS's fused kernel has it: Q is read again at every step.

Both products stream their operands from global memory. A head wider than the registers keeps O
in FP32 in global memory between steps: not read in the first, rounded in the last.
"""

from __future__ import annotations

from fasim.problem import Attention
from fasim.schedules.chain import KEY, QUERY, ROWS, axes_of
from fasim.schedules.language import Block, Kernel, Steps, Tensor
from fasim.schedules.mapping import Mapping
from fasim.schedules.online_softmax import OnlineSoftmax
from fasim.schedules.tiling import Tiling


def in_registers(block: Block, problem: Attention) -> None:
    """read Q, K, V; write O, LSE."""
    m_rows = block.rows("q")
    softmax = OnlineSoftmax(block, m_rows, problem.scale)
    acc_o = block.full(0.0, m_rows, block.all("d"))
    for n_rows in block.loop("k", seen_from=m_rows):
        q, k, v = block.load("Q", m_rows), block.load("K", n_rows), block.load("V", n_rows)
        s = block.mask(block.matmul(q, k.T, name="S"))
        p, correction = softmax.update(s)
        p = block.dropout(p).to(problem.dtype)
        acc_o = block.matmul(p, v, acc=acc_o * correction, name="O")
    block.store("O", (acc_o * softmax.inverse()).to(problem.dtype), m_rows)
    block.store("LSE", softmax.lse(), m_rows)


def in_global_memory(block: Block, problem: Attention) -> None:
    """read Q, K, V; write O, LSE; read and write O_accum between steps."""
    m_rows = block.rows("q")
    softmax = OnlineSoftmax(block, m_rows, problem.scale)
    for n_rows in block.loop("k", seen_from=m_rows):
        q, k, v = block.load("Q", m_rows), block.load("K", n_rows), block.load("V", n_rows)
        s = block.mask(block.matmul(q, k.T, name="S"))
        p, correction = softmax.update(s)
        acc_o = block.load("O_accum", m_rows, when=Steps("after first", n_rows))
        p = block.dropout(p).to(problem.dtype)
        acc_o = acc_o * correction + block.matmul(p, v, name="O")
        block.store("O_accum", acc_o, m_rows, when=Steps("before last", n_rows))
        o = (acc_o * softmax.inverse()).to(problem.dtype)
        block.store("O", o, m_rows, when=Steps("last", n_rows))
    block.store("LSE", softmax.lse(), m_rows)


def kernel(problem: Attention, tiling: Tiling, mapping: Mapping, *, accumulates: bool) -> Kernel:
    """One kernel, a block a row tile.

    Args:
        accumulates: O waits in global memory between steps.
    """
    dtype = problem.dtype
    waiting = (Tensor("O_accum", QUERY, "fp32"),) if accumulates else ()
    return Kernel(
        name="streamed_forward",
        program=in_global_memory if accumulates else in_registers,
        problem=problem,
        grid=("q", "head", "batch"),
        lengths=axes_of(problem),
        tiles={"q": tiling.tile_m, "k": tiling.tile_n},
        tensors=(
            Tensor("Q", QUERY, dtype),
            Tensor("K", KEY, dtype),
            Tensor("V", KEY, dtype),
            *waiting,
            Tensor("O", QUERY, dtype),
            Tensor("LSE", ROWS, "fp32"),
        ),
        mapping=mapping,
    )
