"""Backward in two passes without atomics: delta; dK and dV of a row tile of keys; dQ of queries.

Mirrors the backward of implementation `gpu-kernels`, schedule two_pass: both passes compute S and
dP again. Heads that share keys leave a dK and dV each, which a last kernel adds up.
"""

from gpu_kernels.backward.gradients import backward, variants
from gpu_kernels.backward.group_sums import group_sum

__all__ = ["backward", "group_sum", "variants"]
