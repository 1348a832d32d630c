"""The smallest kernel with a pipelined product, for tests of the compiler's output."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def product_kernel(A, B, C, steps, TILE: tl.constexpr, STEP: tl.constexpr):
    """read A B ; write C"""
    rows, inner = tl.arange(0, TILE), tl.arange(0, STEP)
    a_ptrs = A + rows[:, None] * STEP + inner[None, :]
    b_ptrs = B + inner[:, None] * TILE + rows[None, :]
    acc = tl.zeros([TILE, TILE], tl.float32)
    for _ in tl.range(0, steps):
        a = tl.load(a_ptrs)
        b = tl.load(b_ptrs)
        acc = tl.dot(a, b, acc)
        a_ptrs += TILE * STEP
        b_ptrs += TILE * STEP
    tl.store(C + rows[:, None] * TILE + rows[None, :], acc)
