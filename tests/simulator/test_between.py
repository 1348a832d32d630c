"""A GPU with every field between two others, and the same plan, is predicted between them."""

from __future__ import annotations

from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from fasim.hardware import Gpu
from fasim.hardware.parts import Dram
from fasim.problem import Attention, Scenario
from fasim.readings.traffic import traffic
from fasim.schedules.catalog import plan
from fasim.schedules.plan import Plan, Refused
from fasim.simulator.simulate import simulate
from tests.simulator.problems import PROFILES, machine, pipes, scaled

# Two GPUs with the same features: the second has no less of anything that tells, DRAM as a whole.
ORDERED = [
    ("a100-sxm4-40gb", "a100-sxm4-80gb"),
    ("a100-pcie-80gb", "a100-sxm4-80gb"),
    ("h100-pcie", "h100-sxm5"),
    ("h100-pcie", "h200-sxm"),
    ("h100-sxm5", "h200-sxm"),
    ("h100-sxm5", "hypothetical-h100-2x"),
    ("l4", "l40s"),
]
HYPOTHETICAL = ("a100-sxm4-80gb", "h100-sxm5", "rtx4090", "l40s")
PREFILL = ("flash-attn-2", "flash-attn-3", "triton", "pytorch")
SHARES = st.sampled_from((0.0, 0.25, 0.5, 0.75, 1.0))
SLACK = 1.03

examples = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
decodes = st.builds(
    lambda batch, seqlen: Attention(batch, 32, 1, seqlen, 128, kv_heads=8, causal=True),
    st.sampled_from((1, 16, 64)),
    st.sampled_from((2048, 8192)),
)
prefills = st.builds(
    lambda seqlen, head_dim, causal, direction: Attention(
        4, 16, seqlen, seqlen, head_dim, causal=causal, direction=direction
    ),
    st.sampled_from((1024, 4096)),
    st.sampled_from((64, 128)),
    st.booleans(),
    st.sampled_from(("forward", "backward")),
)


# More SMs can slow a decode (`test_steadiness`): there, pairs have as many.
@st.composite
def shipped(draw: st.DrawFn, more_sms: bool) -> tuple[Gpu, Gpu, Gpu]:
    """A shipped GPU, one with more, and one between them."""
    pairs = [(PROFILES[less].gpu, PROFILES[more].gpu) for less, more in ORDERED]
    alike = [(less, more) for less, more in pairs if less.sm_count == more.sm_count]
    less, more = draw(st.sampled_from(pairs if more_sms else alike))
    return less, _between(less, more, draw), more


@st.composite
def hypothetical(draw: st.DrawFn, more_sms: bool) -> tuple[Gpu, Gpu, Gpu]:
    """A GPU with a poorer memory or clock than a shipped one, one with more, and one between."""
    poorer = st.tuples(st.sampled_from(("dram.bandwidth", "clock", "l2.read")), st.just(0.75))
    richer = [name for name in (*machine, *pipes) if more_sms or name != "sm_count"]
    richest = st.tuples(st.sampled_from(richer), st.sampled_from((1.25, 1.5, 2.0)))
    less = PROFILES[draw(st.sampled_from(HYPOTHETICAL))]
    for resource, factor in draw(st.lists(poorer, max_size=1)):
        less = scaled(less, resource, factor)
    more = less
    for resource, factor in draw(
        st.lists(richest, min_size=2, max_size=5, unique_by=lambda c: c[0])
    ):
        more = scaled(more, resource, factor)
    return less.gpu, _between(less.gpu, more.gpu, draw), more.gpu


def _between(one, other, draw, share=None):  # type: ignore[no-untyped-def]
    """Every field at its own share of the way, or all at `share`; DRAM's at one for all of them.

    What DRAM reaches is bandwidth times efficiency, and where one has more of the first it often
    has less of the second: with the lesser of both, a GPU would be slower than either.
    """
    if isinstance(one, BaseModel):
        if isinstance(one, Dram):
            share = draw(SHARES)
        fields = {
            name: _between(getattr(one, name), getattr(other, name), draw, share)
            for name in type(one).model_fields
        }
        return one.model_copy(update=fields)
    if isinstance(one, bool | str) or not isinstance(one, int | float) or one == other:
        return one
    return type(one)(one + (other - one) * (draw(SHARES) if share is None else share))


def check(gpus: tuple[Gpu, Gpu, Gpu], problem: Attention, name: str) -> None:
    """Whether the middle one's time lies between the others', all under the first one's plan."""
    try:
        held = plan(problem, gpus[0], None, name)
    except Refused:
        reject()
    less, middle, more = (seconds(held, gpu) for gpu in gpus)
    assert min(less, more) / SLACK <= middle <= SLACK * max(less, more)


def seconds(planned: Plan, gpu: Gpu) -> float:
    return simulate(planned, traffic(planned.kernels), gpu, Scenario()).time_s


@examples
@given(shipped(more_sms=True), prefills, st.sampled_from(PREFILL))
def test_between_two_shipped_ones(
    gpus: tuple[Gpu, Gpu, Gpu], problem: Attention, name: str
) -> None:
    check(gpus, problem, name)


@examples
@given(shipped(more_sms=False), decodes)
def test_between_two_shipped_ones_in_decode(gpus: tuple[Gpu, Gpu, Gpu], problem: Attention) -> None:
    check(gpus, problem, "flash-attn-2")


@examples
@given(hypothetical(more_sms=True), prefills, st.sampled_from(PREFILL))
def test_between_two_hypothetical_ones(
    gpus: tuple[Gpu, Gpu, Gpu], problem: Attention, name: str
) -> None:
    check(gpus, problem, name)


@examples
@given(hypothetical(more_sms=False), decodes)
def test_between_two_hypothetical_ones_in_decode(
    gpus: tuple[Gpu, Gpu, Gpu], problem: Attention
) -> None:
    check(gpus, problem, "flash-attn-2")
