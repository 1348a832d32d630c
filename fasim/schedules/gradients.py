"""What the backward chains share: delta, group sums of dK and dV, the rounding of FP32 sums."""

from __future__ import annotations

from fasim.problem import Attention
from fasim.schedules.chain import KEY, KEY_BY_QUERY_HEAD, QUERY, ROWS, axes_of
from fasim.schedules.language import Block, Kernel, Tensor
from fasim.schedules.mapping import Mapping

# The sum is an ordinary streaming kernel: eight warps over a few rows.
ROWS_PER_SUM_BLOCK = 16
STREAMING = Mapping(8, matrix_unit="none", copy_unit="registers")


def delta_kernel(problem: Attention, rows_per_block: int) -> Kernel:
    """read O, dO; write delta = rowsum(dO ∘ O), which is rowsum(P ∘ dP) without P."""

    def preprocess(block: Block, _: Attention) -> None:
        m_rows = block.rows("q")
        o, do = block.load("O", m_rows), block.load("dO", m_rows)
        block.store("delta", (o.to("fp32") * do.to("fp32")).row_sum(), m_rows)

    return Kernel(
        name="preprocess",
        program=preprocess,
        problem=problem,
        grid=("q", "batch", "head"),
        lengths=axes_of(problem),
        tiles={"q": rows_per_block},
        tensors=(
            Tensor("O", QUERY, problem.dtype),
            Tensor("dO", QUERY, problem.dtype),
            Tensor("delta", ROWS, "fp32"),
        ),
        mapping=STREAMING,
    )


def convert_kernel(
    problem: Attention, name: str, rows_per_block: int, grid: tuple[str, ...], factor: float = 1.0
) -> Kernel:
    """read dQ_accum (of dK or dV likewise); write dQ, scaled and rounded.

    Args:
        factor: what the sum is scaled by.
        grid: blocks' axes, the rows' first.
    """
    source, axes = f"{name}_accum", QUERY if name == "dQ" else KEY

    def convert(block: Block, problem: Attention) -> None:
        rows = block.rows(grid[0])
        total = block.load(source, rows) * factor
        block.store(name, total.to(problem.dtype), rows)

    return Kernel(
        name=f"convert_{name.lower()}",
        program=convert,
        problem=problem,
        grid=grid,
        lengths=axes_of(problem),
        tiles={grid[0]: rows_per_block},
        tensors=(Tensor(source, axes, "fp32"), Tensor(name, axes, problem.dtype)),
        mapping=STREAMING,
    )


def key_gradients(problem: Attention, dk: str = "dK", dv: str = "dV") -> tuple[Tensor, Tensor]:
    """dK and dV as blocks of one query head write them: apart, where heads share keys."""
    if problem.group == 1:
        return Tensor(dk, KEY, problem.dtype), Tensor(dv, KEY, problem.dtype)
    return (
        Tensor("dK_heads", KEY_BY_QUERY_HEAD, problem.dtype),
        Tensor("dV_heads", KEY_BY_QUERY_HEAD, problem.dtype),
    )


def group_sums(problem: Attention) -> tuple[Kernel, ...]:
    """The sums of dK and of dV over the query heads of a group; none where a group is one head."""
    return () if problem.group == 1 else (_group_sum(problem, "dK"), _group_sum(problem, "dV"))


def _group_sum(problem: Attention, name: str) -> Kernel:
    def group_sum(block: Block, problem: Attention) -> None:
        n_rows = block.rows("k")
        total = block.full(0.0, n_rows, block.all("d"))
        for member in block.loop("group"):
            total = total + block.load(f"{name}_heads", member, n_rows).to("fp32")
        block.store(name, total.to(problem.dtype), n_rows)

    return Kernel(
        name=f"sum_{name}",
        program=group_sum,
        problem=problem,
        grid=("k", "kv_head", "batch"),
        lengths=axes_of(problem),
        tiles={"k": ROWS_PER_SUM_BLOCK},
        tensors=(
            Tensor(f"{name}_heads", KEY_BY_QUERY_HEAD, problem.dtype),
            Tensor(name, KEY, problem.dtype),
        ),
        mapping=STREAMING,
    )
