"""Standard attention in Triton: QKᵀ, softmax, [dropout], PV as kernels of their own, and backward.

Mirrors schedule `standard`: one GEMM for every product, S and P in global memory in the input
dtype; a causal mask is applied inside the softmax, so that all of N² is moved and multiplied.
"""

from gpu_kernels.standard.chain import Saved, backward, forward, variants

__all__ = ["Saved", "backward", "forward", "variants"]
