"""The problem: one attention call, and the circumstances in which it is timed.

Standard library only: kernels and tables import this file without numpy or torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal, get_args

Dtype = Literal["fp32", "bf16", "fp16", "fp8"]
Direction = Literal["forward", "backward", "both"]
Launch = Literal["stream", "graph", "kernel"]
L2State = Literal["warm", "cold"]
RunLength = Literal["short", "sustained"]
Host = Literal["none", "pcie", "nvlink"]

DTYPE_BYTES: dict[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}
# The tensor-core rate that multiplies a dtype; FP32 inputs are rounded to TF32 on the way.
TENSOR_DTYPE: dict[str, str] = {"fp32": "tf32", "bf16": "bf16", "fp16": "fp16", "fp8": "fp8"}


class ProblemError(ValueError):
    """A problem nobody can run; the message says what was asked and what would work."""


@dataclass(frozen=True)
class Attention:
    """O = softmax(Q·Kᵀ·scale)·V for `batch` × `heads`, one LSE per row.

    Shapes: Q and O are [batch, heads, seqlen_q, head_dim]; K and V are
    [batch, kv_heads, seqlen_k, head_dim]. A causal mask is aligned bottom-right, as in
    FlashAttention ≥ 2.1: row i sees keys 0 … i + seqlen_k − seqlen_q; a row that sees none gives
    O = 0 and LSE = −inf.

    Attributes:
        kv_heads: heads of K and V; 0 stands for `heads`.
        window: keys a query sees to the (left, right) of its own, −1 for all of them; aligned as
            the causal mask, which is a window of (−1, 0) and stored as `causal`. A window that
            is causal too reaches 0 keys to the right. None: no window.
        direction: `forward`, `backward` (dQ, dK, dV from a stored LSE), or `both`.
        dropout: probability that an element of P is dropped; the others are scaled by
            1/(1 − dropout).
        dropout_seed: which elements; the same in both directions and in every schedule.

    Raises:
        ProblemError: a length that is not positive, heads that kv_heads does not divide,
            an unknown dtype or direction, a window of fewer than no keys, a dropout that is no
            probability below 1.
    """

    batch: int
    heads: int
    seqlen_q: int
    seqlen_k: int
    head_dim: int
    kv_heads: int = 0
    dtype: Dtype = "fp16"
    causal: bool = False
    direction: Direction = "forward"
    dropout: float = 0.0
    dropout_seed: int = 0
    window: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.kv_heads == 0:
            object.__setattr__(self, "kv_heads", self.heads)
        for name in ("batch", "heads", "kv_heads", "seqlen_q", "seqlen_k", "head_dim"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ProblemError(f"{name} is {value!r}; it must be a whole number of 1 or more")
        if self.heads % self.kv_heads:
            raise ProblemError(
                f"heads is {self.heads} and kv_heads {self.kv_heads}; "
                "kv_heads must divide heads (grouped-query attention)"
            )
        if self.dtype not in DTYPE_BYTES:
            raise ProblemError(f"dtype is {self.dtype!r}; choose from {', '.join(DTYPE_BYTES)}")
        if self.direction not in get_args(Direction):
            raise ProblemError(
                f"direction is {self.direction!r}; choose from {', '.join(get_args(Direction))}"
            )
        if not 0 <= self.dropout < 1:
            raise ProblemError(
                f"dropout is {self.dropout!r}; it must be a probability of 0 or more and below 1"
            )
        if self.window is not None and min(self.window) < -1:
            raise ProblemError(
                f"window is {self.window[0]},{self.window[1]}; "
                "it must be keys to the left and to the right, -1 for all of them"
            )
        self._settle_window()

    def _settle_window(self) -> None:
        """One way to say it: `causal` for (−1, 0), None for (−1, −1), else a window alone."""
        if self.window is None:
            return
        left, right = self.window[0], 0 if self.causal else self.window[1]
        object.__setattr__(self, "causal", (left, right) == (-1, 0))
        object.__setattr__(self, "window", None if left == -1 and right < 1 else (left, right))

    @property
    def reach(self) -> tuple[int | None, int | None]:
        """Keys a query sees to the left and to the right of its own; None where all of them."""
        left, right = (-1, 0) if self.causal else self.window or (-1, -1)
        return None if left < 0 else left, None if right < 0 else right

    @property
    def masked(self) -> bool:
        """Whether anything hides scores: a causal mask or a window."""
        return self.causal or self.window is not None

    @property
    def visible_pairs(self) -> int:
        """(query, key) pairs that the mask leaves, of one head."""
        left, right = self.reach
        offset = self.seqlen_k - self.seqlen_q
        pairs = self.seqlen_q * self.seqlen_k
        if right is not None:
            pairs = self._pairs_up_to(offset + right)
        return pairs if left is None else pairs - self._pairs_up_to(offset - left - 1)

    def _pairs_up_to(self, diagonal: int) -> int:
        """Pairs with key ≤ query + diagonal: a sum over queries, clipped at no key and at all."""

        def rising(count: int) -> int:
            return max(0, count) * max(0, count + 1) // 2

        def clipped(count: int) -> int:
            return rising(count) - rising(count - self.seqlen_k)

        return clipped(self.seqlen_q + diagonal) - clipped(diagonal)

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.heads // self.kv_heads

    @property
    def scale(self) -> float:
        """The factor of the scores, 1/√head_dim."""
        return float(self.head_dim**-0.5)

    @property
    def element_bytes(self) -> int:
        """Bytes of one element of Q, K, V or O."""
        return DTYPE_BYTES[self.dtype]

    @property
    def nominal_flops(self) -> int:
        """4·B·H·Sq·Sk·D, halved when causal, × 2.5 for backward, × 3.5 for both.

        The convention in which FlashAttention's papers report TFLOP/s; not what is executed. Under
        a window Sq·Sk are the pairs it leaves, as in FlashAttention-3's benchmark.
        """
        matmuls = {"forward": 4, "backward": 10, "both": 14}[self.direction]
        each = matmuls * self.batch * self.heads * self.head_dim
        if self.window is not None:
            return each * self.visible_pairs
        flops = each * self.seqlen_q * self.seqlen_k
        return flops // 2 if self.causal else flops


@dataclass(frozen=True)
class Scenario:
    """What a time depends on and nobody may guess; printed with every result.

    Attributes:
        launch: `stream` (each kernel pays its launch on a stream), `graph` (CUDA graph),
            `kernel` (kernels alone, as a profiler times them).
        l2: `warm`: inputs lie in L2 as far as they fit; `cold`: L2 was flushed.
        run_length: `short`: the clock is not yet limited by power; `sustained`: it is; a number:
            seconds of the whole run, all repetitions, over which it comes to be.
        host: `none`: inputs lie in device memory and results stay there; `pcie`, `nvlink`: they
            come from the host before the first kernel, and go back after the last.
    """

    launch: Launch = "stream"
    l2: L2State = "warm"
    run_length: RunLength | float = "sustained"
    host: Host = "none"

    def __post_init__(self) -> None:
        for name, choices in (
            ("launch", get_args(Launch)),
            ("l2", get_args(L2State)),
            ("host", get_args(Host)),
        ):
            if getattr(self, name) not in choices:
                raise ProblemError(
                    f"{name} is {getattr(self, name)!r}; choose from {', '.join(choices)}"
                )
        if not _is_run_length(self.run_length):
            raise ProblemError(
                f"run_length is {self.run_length!r}; choose from "
                f"{', '.join(get_args(RunLength))}, or a number of seconds above 0"
            )


def _is_run_length(value: object) -> bool:
    if isinstance(value, str):
        return value in get_args(RunLength)
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < inf
