"""`fasim study memory`: what training a transformer holds, with and without recomputation.

Mixed precision with Adam: two bytes a parameter, two a gradient, twelve of optimizer states (an
FP32 copy, momentum and variance): 1 : 1 : 6 (Rajbhandari et al. 2020, ZeRO, section 3.1). Of the
activations only attention's are counted, those its forward pass saves for its backward one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fasim.problem import Attention, ProblemError
from fasim.readings.footprint import footprint
from fasim.schedules import catalog
from fasim.schedules.language import Kernel
from fasim.schedules.record import cached_record

if TYPE_CHECKING:
    from fasim.hardware import Profile

PARAMETER_BYTES, GRADIENT_BYTES, OPTIMIZER_BYTES = 2, 2, 12
# Saves P for backward; recomputes it from LSE.
SCHEDULES = ("standard", "flash2")


@dataclass(frozen=True)
class Activations:
    """What attention saves for backward, over all layers.

    Attributes:
        by_tensor: bytes of one layer.
        fits: whether parameters, gradients, optimizer states and these fit the GPU.
    """

    schedule: str
    by_tensor: dict[str, int]
    bytes: int
    total_bytes: int
    fits: bool


@dataclass(frozen=True)
class MemoryStudy:
    """Device memory of training a model. Parameters are those of the layers, without embeddings."""

    gpu: str
    capacity_bytes: int
    layers: int
    attention: Attention
    parameters: int
    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    ways: tuple[Activations, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def memory_study(
    *,
    layers: int,
    hidden: int,
    heads: int,
    seqlen: int,
    batch: int,
    profile: Profile,
) -> MemoryStudy:
    """Bytes of a decoder in fp16: 12·layers·hidden² parameters, and attention's activations.

    Raises:
        ProblemError: a number that is not positive, heads that do not divide hidden.
        Refused: the GPU cannot run the schedules.
    """
    if layers < 1 or hidden < 1:
        raise ProblemError(f"layers is {layers} and hidden {hidden}; both must be 1 or more")
    if heads < 1 or hidden % heads:
        raise ProblemError(f"hidden is {hidden} and heads {heads}; heads must divide hidden")
    attention = Attention(batch, heads, seqlen, seqlen, hidden // heads, direction="both")
    parameters = 12 * layers * hidden**2
    capacity = profile.gpu.dram.capacity_bytes
    states = parameters * (PARAMETER_BYTES + GRADIENT_BYTES + OPTIMIZER_BYTES)
    ways = []
    for name in SCHEDULES:
        saved = saved_for_backward(catalog.plan(attention, profile.gpu, name).kernels)
        kept = layers * sum(saved.values())
        ways.append(Activations(name, saved, kept, states + kept, states + kept <= capacity))
    return MemoryStudy(
        profile.resolved_name,
        capacity,
        layers,
        attention,
        parameters,
        parameters * PARAMETER_BYTES,
        parameters * GRADIENT_BYTES,
        parameters * OPTIMIZER_BYTES,
        tuple(ways),
    )


def saved_for_backward(kernels: tuple[Kernel, ...]) -> dict[str, int]:
    """Bytes of every tensor that lives from the forward kernels of a chain to the backward ones.

    Backward begins with the first kernel that reads dO.
    """
    loads = [
        {op.name for op in cached_record(kernel).once() if op.kind == "load"} for kernel in kernels
    ]
    begins = next(index for index, names in enumerate(loads) if "dO" in names)
    forward = {tensor.name for kernel in kernels[:begins] for tensor in kernel.tensors}
    sizes = footprint(kernels).by_tensor
    read_back = set().union(*loads[begins:])
    return {name: sizes[name] for name in sizes if name in forward & read_back}
