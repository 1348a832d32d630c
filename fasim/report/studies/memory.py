"""The study of a model's memory as text."""

from __future__ import annotations

from fasim.report.quantities import bytes_text, count_text
from fasim.report.tables import table
from fasim.verbs.studies.memory import Activations, MemoryStudy


def memory_text(study: MemoryStudy) -> str:
    """A row a part of device memory, a column a way of attention."""
    attention = study.attention
    states = (
        ("parameters, 1", study.parameter_bytes),
        ("gradients, 1", study.gradient_bytes),
        ("optimizer states, 6", study.optimizer_bytes),
    )
    rows = [(name, *(bytes_text(size) for _ in study.ways)) for name, size in states]
    rows += [
        ("attention's activations", *(bytes_text(way.bytes) for way in study.ways)),
        ("all", *(bytes_text(way.total_bytes) for way in study.ways)),
        (
            f"{study.gpu}, {bytes_text(study.capacity_bytes)}",
            *("fits" if way.fits else "out of memory" for way in study.ways),
        ),
    ]
    return "\n\n".join(
        (
            f"Training {study.layers} layers, {attention.heads} heads of {attention.head_dim}, "
            f"{count_text(study.parameters)} parameters without embeddings: "
            f"batch {attention.batch}, {attention.seqlen_q} tokens, fp16, Adam",
            table(("", *(way.schedule for way in study.ways)), rows),
            "\n".join(_saved(way) for way in study.ways),
        )
    )


def _saved(way: Activations) -> str:
    tensors = ", ".join(f"{name} {bytes_text(size)}" for name, size in way.by_tensor.items())
    return f"{way.schedule} saves in a layer: {tensors}"
