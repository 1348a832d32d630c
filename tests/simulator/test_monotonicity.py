"""More of a resource never slows a prediction by more than 3 %, the plan held fixed."""

from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from fasim.hardware import with_overrides
from fasim.problem import Attention
from fasim.schedules.plan import Refused
from fasim.schedules.record import record
from fasim.simulator.loop_rates import stream_rate
from fasim.simulator.lowering import lower, main_loop
from tests.simulator.problems import (
    PROFILES,
    built,
    machine,
    names,
    pipes,
    planned,
    problems,
    scaled,
    scenarios,
    simulated,
    specs,
)

more = st.sampled_from((1.05, 1.25, 1.5, 2.0, 4.0))
any_case = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@any_case
@given(
    spec=specs,
    problem=problems(),
    name=names,
    scenario=scenarios,
    resource=st.sampled_from(machine),
    factor=more,
)
def test_more_of_the_machine_is_no_slower(spec, problem, name, scenario, resource, factor):
    profile = built(spec)
    try:
        plan = planned(profile, problem, name)
    except Refused:
        reject()
    before = simulated(profile, plan, scenario)
    after = simulated(scaled(profile, resource, factor), plan, scenario)
    # Blocks of unequal length are dealt out in order: a list schedule, with its anomalies. A
    # shorter block can send the longest one last, behind another.
    slack = sum(longest_block_s(kernel) for kernel in before.kernels)
    assert after.time_s <= 1.03 * before.time_s + slack


def longest_block_s(kernel):
    """Seconds of the loop of a mixed kernel's longest block; none where all are alike."""
    work = kernel.lowered.work
    if len(work.classes) == 1:
        return 0.0
    return max(c.loop.period_ticks[-1] * c.trips for c in work.classes if c.loop) / 1024 / 1e12


@any_case
@given(
    spec=specs,
    head_dim=st.sampled_from((32, 64, 96, 128)),
    name=st.sampled_from(("flash2", "flash-attn-2")),
    resource=st.sampled_from(pipes),
    factor=more,
)
def test_wider_pipes_do_not_slow_a_block_alone(spec, head_dim, name, resource, factor):
    profile = built(spec)
    try:
        plan = planned(profile, Attention(1, 1, 4096, 4096, head_dim), name)
    except Refused:
        reject()
    recorded = record(plan.kernels[0])
    cycles = []
    for gpu in (profile.gpu, scaled(profile, resource, factor).gpu):
        stream = lower(recorded, gpu, main_loop(recorded)).plain
        cycles.append(stream_rate(stream, 1, gpu).cycles)
    assert cycles[1] <= 1.03 * cycles[0]


def test_a_wider_pipe_does_not_slow_two_blocks():
    slow_sfu = with_overrides(
        PROFILES["a100-sxm4-80gb"], {"sfu.lanes": 8, "shared_memory.bytes_per_clock": 64}
    )
    plan = planned(slow_sfu, Attention(16, 32, 4096, 4096, 64), "flash-attn-2")
    before = simulated(slow_sfu, plan).time_s
    assert simulated(scaled(slow_sfu, "tensor", 2), plan).time_s <= 1.03 * before
