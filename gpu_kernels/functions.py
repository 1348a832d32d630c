"""The kernels as functions that PyTorch differentiates."""

from __future__ import annotations

from typing import Any

import torch

from gpu_kernels import backward, forward, standard

Tensor = torch.Tensor


class FlashAttention(torch.autograd.Function):
    """O of attention, fused; backward recomputes P from LSE."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        o, lse = forward.forward(q, k, v, causal=causal)
        ctx.save_for_backward(q, k, v, o, lse)
        ctx.causal = causal
        return o

    @staticmethod
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, o, lse = ctx.saved_tensors
        return *backward.backward(q, k, v, o, lse, _rows(do), causal=ctx.causal), None


class StandardAttention(torch.autograd.Function):
    """O of attention by three kernels, or four with dropout; S and P in global memory."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float, seed: int
    ) -> Tensor:
        o, saved = standard.forward(q, k, v, causal=causal, dropout=dropout, seed=seed)
        kept = () if saved.dropout_mask is None else (saved.p_dropped, saved.dropout_mask)
        ctx.save_for_backward(q, k, v, saved.p, *kept)
        ctx.dropout = dropout
        return o

    @staticmethod
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, p, *kept = ctx.saved_tensors
        saved = standard.Saved(p, *kept) if kept else standard.Saved(p, p, None)
        gradients = standard.backward(q, k, v, saved, _rows(do), dropout=ctx.dropout)
        return *gradients, None, None, None


def flash_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False) -> Tensor:
    """O [batch, heads, seqlen_q, head_dim] of q, and k and v [batch, kv_heads, seqlen_k, head_dim].

    Raises:
        ProblemError: shapes or a dtype that the kernels do not take.
    """
    return FlashAttention.apply(q, k, v, causal)


def standard_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    dropout: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """As `flash_attention`, with dropout.

    Raises:
        ProblemError: shapes or a dtype that the kernels do not take.
    """
    return StandardAttention.apply(q, k, v, causal, dropout, seed)


def _rows(do: Tensor) -> Tensor:
    """With contiguous head_dim: the gradient of a sum is expanded from one element."""
    return do if do.stride(-1) == 1 else do.contiguous()
