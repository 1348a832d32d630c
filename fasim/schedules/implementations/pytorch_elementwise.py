"""PyTorch's elementwise kernels: instructions an element, and how they are mapped."""

from __future__ import annotations

from fasim.schedules.mapping import Mapping

SOURCE = "flash-attn 2.8.3, hopper/benchmark_flash_attention_fp8.py (attention_pytorch)"

# Issued instructions an element, by the paths through the machine code of PyTorch 2.0.1 (fp16,
# sm_80). elementwise_kernel<128, 4> works out where an element lies axis by axis, of those that do
# not merge: four of Q and V as they are copied, three of K transposed; a sum with a broadcast mask
# has two, and one operand more.
COPY_FOUR_AXES, COPY_THREE_AXES, MASK_ADD = 54.0, 45.0, 46.0
# The loop of CatArrayBatchedCopy<Half, unsigned, 4, 64, 64>: an element's place in the source and
# in the result by three divisions each, of integers that are not known in advance.
STACK = 86.0
# A figure taken over: a product of two tensors, and what else works on tensors that lie the same
# way. vectorized_elementwise_kernel<4> has 8 for the product; it waits for DRAM.
ELEMENTWISE = 12.0
# fused_dropout_kernel_vec<4>: 110 to 127 for four elements, by where its generator stands.
DROPOUT = 30.0
# elementwise_kernel<128, 4>: four elements a thread, consecutive in what it writes.
ELEMENTS_PER_BLOCK = 512


def streaming(instructions: float, warps: int) -> Mapping:
    """A kernel that loads, computes and stores, and keeps nothing in shared memory."""
    return Mapping(
        warps=warps,
        matrix_unit="none",
        copy_unit="registers",
        instructions_per_element=instructions,
        source=SOURCE,
    )


def rows_of_block(length: int, head_dim: int) -> int:
    """Rows of a block of an elementwise kernel over so many rows of a head."""
    return min(max(1, ELEMENTS_PER_BLOCK // head_dim), length)


def warps_of_row(head_dim: int) -> int:
    """Warps of a block that has a thread for every column of a head."""
    return -(-head_dim // 32)
