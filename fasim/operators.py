"""The operators around attention: matrix products, and what passes over a tensor once.

Standard library only, as `problem.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from fasim.problem import DTYPE_BYTES, Attention, ProblemError

Kind = Literal["gemm", "softmax", "elementwise", "reduce", "norm", "copy"]

# What each kind can be asked to do, the usual first; `gemm`, `softmax` and `copy` do one thing.
OPERATIONS: dict[Kind, tuple[str, ...]] = {
    "gemm": (),
    "softmax": (),
    "elementwise": ("gelu", "relu", "silu", "scale", "add", "mul", "triad", "dropout", "fill"),
    "reduce": ("sum", "max"),
    "norm": ("layer", "rms"),
    "copy": (),
}
# tf32: FP32 in memory, rounded on its way into the tensor cores.
GEMM_DTYPES = ("fp16", "bf16", "tf32", "fp32")
DTYPES = ("fp16", "bf16", "fp32")
# An operator's probability changes neither bytes nor time; numerics needs one.
DROPOUT = 0.1


@dataclass(frozen=True)
class Operator:
    """One operator on matrices of `rows` × `columns`.

    `gemm`: C[rows, columns] = A[rows, depth] · B[columns, depth]ᵀ, `batch` of them: B as a linear
    layer stores its weights. `softmax`, `reduce` and `norm` work on each row; `elementwise` and
    `copy` on one row of all elements.

    Attributes:
        operation: one of the kind's `OPERATIONS`; the first if empty.
        depth, batch: of `gemm`; 1 otherwise.

    Raises:
        ProblemError: an unknown kind, operation or dtype, a size that is not positive.
    """

    kind: Kind
    rows: int
    columns: int
    depth: int = 1
    batch: int = 1
    operation: str = ""
    dtype: str = "fp16"

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ProblemError(
                f"operator is {self.kind!r}; choose from {', '.join(get_args(Kind))}"
            )
        for name in ("rows", "columns", "depth", "batch"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ProblemError(
                    f"{self.option(name)} is {value!r}; it must be a whole number of 1 or more"
                )
        known = OPERATIONS[self.kind]
        if not self.operation and known:
            object.__setattr__(self, "operation", known[0])
        if self.operation and self.operation not in known:
            choices = f"choose from {', '.join(known)}" if known else "it has none"
            raise ProblemError(f"op of {self.kind} is {self.operation!r}; {choices}")
        dtypes = GEMM_DTYPES if self.kind == "gemm" else DTYPES
        if self.dtype not in dtypes:
            raise ProblemError(
                f"dtype of {self.kind} is {self.dtype!r}; choose from {', '.join(dtypes)}"
            )

    def option(self, size: str) -> str:
        """What a size is called where the operator is asked for."""
        if self.kind == "gemm":
            return {"rows": "m", "columns": "n", "depth": "k"}.get(size, size)
        return "elements" if self.kind in ("elementwise", "copy") and size == "columns" else size

    @property
    def name(self) -> str:
        """`gemm`, `elementwise gelu`."""
        return f"{self.kind} {self.operation}".rstrip()

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes it is asked for by, under the names they are asked by."""
        asked = {
            "gemm": ("rows", "columns", "depth", "batch"),
            "elementwise": ("columns",),
            "copy": ("columns",),
        }.get(self.kind, ("rows", "columns"))
        return {self.option(size): getattr(self, size) for size in asked}

    @property
    def element_bytes(self) -> int:
        """Bytes of one element in memory."""
        return DTYPE_BYTES[self.stored_dtype]

    @property
    def stored_dtype(self) -> str:
        """What lies in memory: TF32 lies there as FP32."""
        return "fp32" if self.dtype == "tf32" else self.dtype

    @property
    def in_attention(self) -> Attention:
        """The sizes under attention's axes, by which the tile language counts.

        Rows are queries, columns keys, the contracted side is the head.
        """
        return Attention(
            batch=self.batch,
            heads=1,
            seqlen_q=self.rows,
            seqlen_k=self.columns,
            head_dim=self.depth,
            dtype=self.stored_dtype,  # type: ignore[arg-type]  # one of DTYPES
            dropout=DROPOUT if self.operation == "dropout" else 0.0,
        )

    @property
    def nominal_flops(self) -> int:
        """2·batch·m·n·k of `gemm`, the convention in which its TFLOP/s are reported; else 0."""
        if self.kind != "gemm":
            return 0
        return 2 * self.batch * self.rows * self.columns * self.depth


def gemm(m: int, n: int, k: int, batch: int = 1, dtype: str = "fp16") -> Operator:
    """C[m, n] = A[m, k] · B[n, k]ᵀ, `batch` of them."""
    return Operator("gemm", m, n, k, batch, dtype=dtype)


def over_rows(
    kind: Kind, rows: int, columns: int, operation: str = "", dtype: str = "fp16"
) -> Operator:
    """`softmax`, `reduce` or `norm` of each row."""
    return Operator(kind, rows, columns, operation=operation, dtype=dtype)


def over_elements(kind: Kind, elements: int, operation: str = "", dtype: str = "fp16") -> Operator:
    """`elementwise` or `copy`."""
    return Operator(kind, 1, elements, operation=operation, dtype=dtype)
