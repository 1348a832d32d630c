"""Hypothetical GPUs behave: no jumps as a resource grows, and nothing outside what bounds it."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from fasim.hardware import Gpu, load
from fasim.problem import Attention, Scenario
from fasim.readings.traffic import traffic
from fasim.schedules.catalog import plan
from fasim.schedules.plan import Plan
from fasim.schedules.record import record
from fasim.simulator.loop_rates import stream_rate
from fasim.simulator.lowering import lower, main_loop
from fasim.simulator.simulate import simulate
from fasim.verbs.elasticities import RESOURCES, doubled

KERNELS = [
    ("flash-attn-2", 64, "forward", False),
    ("flash-attn-2", 128, "forward", False),
    ("flash-attn-2", 128, "forward", True),
    ("flash-attn-2", 64, "backward", False),
    ("flash-attn-2", 128, "backward", False),
    ("flash-attn-3", 64, "forward", False),
    ("flash-attn-3", 128, "forward", False),
    ("triton", 64, "forward", False),
    ("cudnn", 128, "forward", False),
    ("pytorch", 128, "forward", True),
]
# Pairs of GPUs with the same features, the second with no less of anything that tells.
ORDERED = [
    ("a100-sxm4-40gb", "a100-sxm4-80gb"),
    ("a100-pcie-80gb", "a100-sxm4-80gb"),
    ("h100-pcie", "h100-sxm5"),
    ("h100-sxm5", "h200-sxm"),
    ("l4", "l40s"),
]
# What is left of the lock of two blocks into a phase: see docs/model.md.
WORST_JUMP = 0.09


def seconds(planned: Plan, gpu: Gpu) -> float:
    return simulate(planned, traffic(planned.kernels), gpu, Scenario()).time_s


@pytest.mark.parametrize(("name", "head_dim", "direction", "causal"), KERNELS)
def test_twice_of_a_resource_of_an_h100_does_not_slow_it(
    name: str, head_dim: int, direction: str, causal: bool
) -> None:
    gpu = load("h100").gpu
    problem = Attention(4, 16, 4096, 4096, head_dim, causal=causal, direction=direction)  # type: ignore[arg-type]
    planned = plan(problem, gpu, None, name)
    before = seconds(planned, gpu)
    slower = {resource: seconds(planned, doubled(gpu, resource)) / before for resource in RESOURCES}
    assert max(slower.values()) <= 1.03, slower
    assert min(slower.values()) >= 0.5  # no resource is worth more than all of the time


@cache
def cycles(gpu_name: str, head_dim: int, resource: str | None) -> float:
    """T(2) of FlashAttention-2's forward pass, with twice of a resource."""
    gpu = load(gpu_name).gpu
    (kernel,) = plan(Attention(8, 16, 4096, 4096, head_dim), gpu, None, "flash-attn-2").kernels
    gpu = doubled(gpu, resource) if resource else gpu
    recorded = record(kernel)
    return stream_rate(lower(recorded, gpu, main_loop(recorded)).plain, 2, gpu).cycles


@pytest.mark.parametrize("resource", ["tensor_core", "sfu", "fp32", "alu", "shared_memory"])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("gpu", ["a100", "h100", "rtx4090", "l40s"])
def test_two_blocks_are_slowed_by_no_more_than_the_docs_say(
    gpu: str, head_dim: int, resource: str
) -> None:
    more = cycles(gpu, head_dim, resource) / cycles(gpu, head_dim, None)
    assert more <= 1 + WORST_JUMP


@st.composite
def between(draw: st.DrawFn) -> tuple[Gpu, Gpu, Gpu]:
    """A GPU, one with more, and one with every field between theirs."""
    less, more = (load(name).gpu for name in draw(st.sampled_from(ORDERED)))
    return less, _between(less, more, draw), more


def _between(one, other, draw):  # type: ignore[no-untyped-def]
    if isinstance(one, BaseModel):
        fields = {
            name: _between(getattr(one, name), getattr(other, name), draw)
            for name in type(one).model_fields
        }
        return one.model_copy(update=fields)
    if isinstance(one, bool | str) or not isinstance(one, int | float) or one == other:
        return one
    share = draw(st.sampled_from((0.0, 0.25, 0.5, 0.75, 1.0)))
    return type(one)(one + (other - one) * share)


@settings(max_examples=40, deadline=None)
@given(
    between(),
    st.sampled_from(("flash-attn-2", "pytorch")),
    st.sampled_from((64, 128)),
    st.sampled_from((1024, 4096)),
    st.booleans(),
)
def test_a_gpu_between_two_is_predicted_between_them(
    gpus: tuple[Gpu, Gpu, Gpu], name: str, head_dim: int, seqlen: int, causal: bool
) -> None:
    problem = Attention(4, 16, seqlen, seqlen, head_dim, causal=causal)
    plans = [plan(problem, gpu, None, name) for gpu in gpus]
    if len({planned.tile for planned in plans}) > 1:
        reject()
    less, middle, more = (seconds(planned, gpu) for planned, gpu in zip(plans, gpus, strict=True))
    assert min(less, more) / 1.03 <= middle <= 1.03 * max(less, more)
