"""Tests of counting and of gradients, with TRITON_INTERPRET=1; `test_interpreted.py` runs them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from fasim.problem import ProblemError
from gpu_kernels import exp2_rate, functions, reference, sweep_rate
from gpu_kernels.forward import forward
from gpu_kernels.interpret import repairs
from gpu_kernels.interpret.counting import StrayAccess, counted, note
from gpu_kernels.launch import launch

pytestmark = pytest.mark.filterwarnings("ignore")  # 0/0 in masked lanes, triton's own notices


@triton.jit
def masked_kernel(X, Y, Z, elements, BLOCK: tl.constexpr):
    """read X ; write Y Z"""
    at = tl.arange(0, BLOCK)
    x = tl.load(X + at, mask=at < elements, other=0.0)
    tl.store(Y + at, x.to(tl.float16), mask=at < elements)
    tl.atomic_add(Z, tl.sum(x, 0))


@triton.jit
def unnoted_kernel(X):
    tl.store(X, 0.0)


def test_masked_lanes_move_nothing_and_atomics_are_reductions() -> None:
    x, y, z = torch.ones(64), torch.zeros(64, dtype=torch.float16), torch.zeros(1)
    with counted() as launches:
        launch("masked", masked_kernel, (3,), {"A": x, "B": y, "C": z}, 50, BLOCK=64)
    (found,) = launches
    a, b, c = (found.accesses[name] for name in "ABC")
    assert (found.kernel, a.read, a.write, a.reduce) == ("masked", 3 * 50 * 4, 0, 0)
    assert (b.read, b.write, b.size_bytes) == (0, 3 * 50 * 2, 128)
    assert (c.read, c.write, c.reduce) == (0, 0, 3 * 4)
    assert (a.may_read, a.may_write, c.may_write) == (True, False, True)
    assert float(z) == 150


def test_an_access_outside_of_all_tensors_is_an_error() -> None:
    x, y, z = torch.ones(200)[:50], torch.zeros(64, dtype=torch.float16), torch.zeros(1)
    with pytest.raises(Exception, match="14 elements outside"), counted():
        launch("masked", masked_kernel, (1,), {"X": x, "Y": y, "Z": z}, 64, BLOCK=64)
    assert issubclass(StrayAccess, Exception)


def test_a_kernel_without_a_note_is_refused() -> None:
    assert note(masked_kernel) == ({"X"}, {"Y", "Z"})
    with pytest.raises(ValueError, match="unnoted_kernel has no line"):
        note(unnoted_kernel)


def test_rounding_to_bf16_is_torch_s() -> None:
    values = np.random.default_rng(0).normal(size=4096).astype(np.float32) * 1e3
    values[:4] = [np.inf, -np.inf, 1 + 2**-8, 1 + 3 * 2**-8]
    rounded = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    np.testing.assert_array_equal(repairs.bfloat16_of(values), rounded)
    assert repairs.bfloat16_of(np.array([np.nan], np.float32))[0] & 0x7FFF > 0x7F80


@pytest.mark.parametrize(
    "function", [functions.flash_attention, functions.standard_attention], ids=["flash", "standard"]
)
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_pytorch_s(function: Callable[..., torch.Tensor], causal: bool) -> None:
    torch.manual_seed(1)
    leaves = [torch.randn(1, heads, rows, 32) for heads, rows in ((2, 40), (1, 50), (1, 50))]
    leaves = [leaf.half().requires_grad_() for leaf in leaves]
    function(*leaves, causal=causal).sum().backward()
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    o, _ = reference.attention(*wide, causal=causal)
    o.sum().backward()
    for leaf, exact in zip(leaves, wide, strict=True):
        assert float((leaf.grad - exact.grad).abs().max()) < 1e-2
    written = reference.gradients(
        *(leaf.detach().double() for leaf in leaves), torch.ones_like(o), causal=causal
    )
    for found, exact in zip(written, wide, strict=True):
        torch.testing.assert_close(found, exact.grad)


def test_dropout_draws_again_what_it_drew() -> None:
    q, k, v = (torch.randn(1, 1, 20, 16).half().requires_grad_() for _ in range(3))
    kwargs = {"causal": True, "dropout": 0.5}
    first, again, other = (
        functions.standard_attention(q, k, v, seed=seed, **kwargs) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    first.sum().backward()
    assert bool(v.grad.isfinite().all())


@pytest.mark.parametrize(
    ("shapes", "dtype", "said"),
    [
        (((1, 2, 8, 40), (1, 2, 8, 40)), torch.float16, "head_dim is 40; the kernels take 16"),
        (((1, 2, 8, 32), (1, 2, 8, 16)), torch.float16, "K and V must be"),
        (((1, 3, 8, 32), (1, 2, 8, 32)), torch.float16, "kv_heads must divide heads"),
        (((1, 2, 8, 32), (1, 2, 8, 32)), torch.float32, "one of float16, bfloat16"),
    ],
)
def test_what_no_kernel_takes_is_refused(
    shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype, said: str
) -> None:
    q, k = (torch.zeros(shape, dtype=dtype) for shape in shapes)
    with pytest.raises(ProblemError, match=said):
        forward(q, k, k)


def test_a_strided_head_dim_is_refused() -> None:
    q = torch.zeros(1, 2, 32, 16, dtype=torch.float16).mT
    with pytest.raises(ProblemError, match="contiguous"):
        forward(q, torch.zeros(q.shape).half(), torch.zeros(q.shape).half())


def test_sweeps_go_round_and_round() -> None:
    y = torch.zeros(2 * sweep_rate.BLOCK_ELEMENTS)
    sweep_rate.add_sweep(y, programs=3, repeats=2)
    assert y.view(2, -1).unique(dim=1).tolist() == [[3.0], [3.0]]
    x = torch.ones(2 * sweep_rate.BLOCK_ELEMENTS)
    assert sweep_rate.read_sweep(x, programs=2, repeats=3).tolist() == [3 * 4096.0] * 2
    with pytest.raises(ValueError, match="multiple of 4096"):
        sweep_rate.write_sweep(torch.zeros(1000), programs=1)


def test_exp2_takes_whole_blocks() -> None:
    with pytest.raises(ValueError, match="multiple of 1024"):
        exp2_rate.exp2_chain(torch.zeros(1000))
