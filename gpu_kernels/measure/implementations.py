"""What is timed: our kernels, and the backends of PyTorch's `scaled_dot_product_attention`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from fasim.problem import Attention
from fasim.schedules.implementations.gpu_kernels_decode import num_splits
from gpu_kernels import backward, decode, forward, standard
from gpu_kernels.measure.device import Device

Tensor = torch.Tensor
Call = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Operands:
    """Q and dO [batch, heads, seqlen_q, head_dim], K and V [batch, kv_heads, seqlen_k, head_dim].

    sm_count: of the GPU they lie on.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    do: Tensor
    sm_count: int

    def all(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.q, self.k, self.v, self.do


Prepare = Callable[[Attention, Operands], AbstractContextManager[Call]]


@dataclass(frozen=True)
class Implementation:
    """A kernel family.

    Attributes:
        prepare: does what comes before the call that is timed; gives the call, which returns
            (O, and LSE if there is one), or (dQ, dK, dV) of a backward problem.
        own: whether it is ours, and its outputs are checked.
    """

    name: str
    schedule: str
    prepare: Prepare
    own: bool = False


def operands(device: Device, problem: Attention) -> Operands:
    """Random ones: zeros draw less power, and run faster than what anybody computes."""
    queries = (problem.batch, problem.heads, problem.seqlen_q, problem.head_dim)
    keys = (problem.batch, problem.kv_heads, problem.seqlen_k, problem.head_dim)
    shapes = {"q": queries, "k": keys, "v": keys, "do": queries}
    values = {name: device.normal(name, shape, problem.dtype) for name, shape in shapes.items()}
    return Operands(**values, sm_count=device.environment.sm_count)


@contextmanager
def _flash(problem: Attention, given: Operands) -> Iterator[Call]:
    q, k, v, do = given.all()
    causal = problem.causal
    if problem.direction == "forward":
        yield lambda: forward.forward(q, k, v, causal=causal)
        return
    o, lse = forward.forward(q, k, v, causal=causal)
    yield lambda: backward.backward(q, k, v, o, lse, do, causal=causal)


@contextmanager
def _standard(problem: Attention, given: Operands) -> Iterator[Call]:
    q, k, v, do = given.all()
    if problem.direction == "forward":
        yield lambda: standard.forward(q, k, v, causal=problem.causal)[:1]
        return
    _, saved = standard.forward(q, k, v, causal=problem.causal)
    yield lambda: standard.backward(q, k, v, saved, do)


@contextmanager
def _decode(problem: Attention, given: Operands) -> Iterator[Call]:
    yield lambda: decode.decode(given.q, given.k, given.v, causal=problem.causal)


@contextmanager
def _split_kv(problem: Attention, given: Operands) -> Iterator[Call]:
    splits = num_splits(problem, given.sm_count)
    yield lambda: decode.decode(given.q, given.k, given.v, causal=problem.causal, num_splits=splits)


def _sdpa(backend: SDPBackend) -> Prepare:
    """A backend of PyTorch's; a backward pass through autograd, from one graph kept."""

    @contextmanager
    def prepare(problem: Attention, given: Operands) -> Iterator[Call]:
        if problem.causal and problem.seqlen_q != problem.seqlen_k:
            raise ValueError("PyTorch aligns a causal mask top-left, fasim bottom-right")
        q, k, v, do = given.all()
        backward_wanted = problem.direction == "backward"
        if backward_wanted:
            q, k, v = (tensor.detach().requires_grad_() for tensor in (q, k, v))

        def attend() -> Tensor:
            return scaled_dot_product_attention(
                q, k, v, is_causal=problem.causal, enable_gqa=problem.group > 1
            )

        with sdpa_kernel([backend]):
            if backward_wanted:
                o = attend()
                yield lambda: torch.autograd.grad(o, (q, k, v), do, retain_graph=True)
            else:
                yield lambda: (attend(),)

    return prepare


OURS = Implementation("gpu-kernels", "flash2", _flash, own=True)
STANDARD = Implementation("gpu-kernels-standard", "standard", _standard, own=True)
DECODE = Implementation("gpu-kernels-decode", "decode", _decode, own=True)
SPLIT_KV = Implementation("gpu-kernels-split-kv", "split_kv", _split_kv, own=True)
PYTORCH_FLASH = Implementation("pytorch-flash", "flash2", _sdpa(SDPBackend.FLASH_ATTENTION))
CUDNN = Implementation("cudnn", "flash3", _sdpa(SDPBackend.CUDNN_ATTENTION))
PYTORCH_MATH = Implementation("pytorch-math", "standard", _sdpa(SDPBackend.MATH))

BY_NAME = {
    implementation.name: implementation
    for implementation in (OURS, STANDARD, DECODE, SPLIT_KV, PYTORCH_FLASH, CUDNN, PYTORCH_MATH)
}


def schedule_of(implementation: Implementation, architecture: str) -> str:
    """What an architecture runs: cuDNN takes flash3 where there is wgmma, and flash2 before."""
    if implementation is CUDNN and int(architecture.removeprefix("sm_")) < 90:
        return "flash2"
    return implementation.schedule
