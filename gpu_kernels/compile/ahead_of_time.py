"""One kernel compiled for one architecture, on a machine that need not have a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import triton
from triton.compiler import ASTSource

from gpu_kernels.compile.targets import target_of
from gpu_kernels.variant import Variant

# What the launcher finds: memory that PyTorch allocates is aligned to 16 bytes; strides are
# multiples of a head's dimension, lengths of whole tiles.
ALIGNED = [["tt.divisibility", 16]]
WHOLE = ("stride", "seqlen")


@dataclass(frozen=True)
class Binary:
    """What the compiler made.

    Attributes:
        function: its name in the binary.
        ttgir: the compiler's IR after its GPU passes.
        shared_memory_bytes: of a block.
        tensor_memory_columns: of a block, on GPUs that have tensor memory; 0 elsewhere.
    """

    function: str
    cubin: bytes
    ttgir: str
    shared_memory_bytes: int
    tensor_memory_columns: int


def options_of(variant: Variant) -> dict[str, object]:
    """The compiler's options: fused multiply-add, as it has been its default, is asked for."""
    return {
        "num_warps": variant.num_warps,
        "num_stages": variant.num_stages,
        "enable_fp_fusion": True,
    }


def compile_variant(variant: Variant, arch: str) -> Binary:
    """Compiles a kernel as the launcher would, for arguments as PyTorch allocates them."""
    source = ASTSource(
        variant.kernel,
        dict(variant.signature),
        constexprs=dict(variant.constants),
        attrs={(place,): ALIGNED for place in _aligned(variant)},
    )
    compiled = triton.compile(source, target=target_of(arch), options=options_of(variant))
    return Binary(
        function=compiled.metadata.name,
        cubin=compiled.asm["cubin"],
        ttgir=compiled.asm["ttgir"],
        shared_memory_bytes=compiled.metadata.shared,
        tensor_memory_columns=compiled.metadata.tmem_size or 0,
    )


def _aligned(variant: Variant) -> list[int]:
    """Places of the arguments that are multiples of 16."""
    return [
        place
        for place, (name, kind) in enumerate(variant.signature.items())
        if kind.startswith("*") or (kind.startswith("i") and name.startswith(WHOLE))
    ]
