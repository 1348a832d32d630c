"""GPUs and problems for tests that hold for all of them."""

from hypothesis import strategies as st

from fasim.hardware import load, shipped, with_overrides
from fasim.problem import Attention, Scenario
from fasim.readings.traffic import traffic
from fasim.schedules.catalog import plan
from fasim.simulator.simulate import simulate

PROFILES = {name: load(name) for name in shipped()}
IMPLEMENTATIONS = ("flash-attn-2", "pytorch")


def scaled(profile, resource, factor):
    """The GPU with `factor` times as much of a resource; clocks and tensor rates go together."""
    gpu = profile.gpu
    clock, rates = gpu.clock, gpu.tensor_core.flops_per_clock
    values = {
        "sm_count": {"sm_count": max(1, round(gpu.sm_count * factor))},
        "dram.bandwidth": {"dram.bandwidth": _text(gpu.dram.bandwidth_bytes_per_s, factor, "B/s")},
        "l2.read": {"l2.read_bytes_per_clock_per_sm": gpu.l2.read_bytes_per_clock_per_sm * factor},
        "l2.write": {
            "l2.write_bytes_per_clock_per_sm": gpu.l2.write_bytes_per_clock_per_sm * factor
        },
        "clock": {
            f"clock.{name}": _text(hz, factor, "Hz")
            for name, hz in (
                ("boost", clock.boost_hz),
                ("tensor", clock.tensor_hz),
                ("sustained_tensor", clock.sustained_tensor_hz),
            )
            if hz is not None
        },
        "tensor": {
            f"tensor_core.flops_per_clock.{dtype}": round(rates[dtype] * factor)
            for dtype in ("fp16", "bf16")
        },
        "sfu.lanes": {"sfu.lanes": max(1, round(gpu.sfu.lanes * factor))},
        "fp32.lanes": {"fp32.lanes": max(1, round(gpu.fp32.lanes * factor))},
    }[resource]
    return with_overrides(profile, values)


def _text(value, factor, unit):
    return f"{value * factor / 1e9:.6f} G{unit}"


def planned(profile, problem, name):
    """The plan of a schedule or an implementation; Refused if the GPU does not take it."""
    asked = (None, name) if name in IMPLEMENTATIONS else (name, None)
    return plan(problem, profile.gpu, *asked)


def simulated(profile, plan_, scenario=None, **options):
    exact = traffic(plan_.kernels)
    return simulate(plan_, exact, profile.gpu, scenario or Scenario(), **options)


factors = st.sampled_from((0.25, 0.5, 0.75, 1.25, 2.0, 4.0))
machine = ("sm_count", "dram.bandwidth", "l2.read", "l2.write", "clock")
pipes = ("tensor", "sfu.lanes", "fp32.lanes")


specs = st.tuples(
    st.sampled_from(sorted(PROFILES)),
    st.lists(
        st.tuples(st.sampled_from(machine + pipes), factors), max_size=2, unique_by=lambda c: c[0]
    ),
)
"""A shipped GPU with more or less of up to two resources, for `built`."""


def built(spec):
    name, changes = spec
    profile = PROFILES[name]
    for resource, factor in changes:
        profile = scaled(profile, resource, factor)
    return profile


@st.composite
def problems(draw):
    seqlens = st.sampled_from((128, 1000, 1024, 2048, 4096, 8192)) | st.integers(1, 8192)
    seqlen_q = draw(seqlens)
    seqlen_k = seqlen_q if draw(st.booleans()) else draw(seqlens)
    reaches = st.sampled_from((-1, 0, 100, 1024))
    heads = draw(st.sampled_from((1, 4, 8, 16, 32)))
    return Attention(
        batch=draw(st.sampled_from((1, 2, 4, 16))),
        heads=heads,
        kv_heads=draw(st.sampled_from((1, heads))),
        seqlen_q=seqlen_q,
        seqlen_k=seqlen_k,
        head_dim=draw(st.sampled_from((32, 40, 64, 96, 128, 256))),
        causal=draw(st.booleans()),
        dropout=draw(st.sampled_from((0.0, 0.0, 0.1))),
        window=draw(st.none() | st.tuples(reaches, reaches)),
    )


names = st.sampled_from(("standard", "flash1", "flash2", *IMPLEMENTATIONS))
scenarios = st.builds(
    Scenario,
    st.sampled_from(("stream", "graph", "kernel")),
    st.sampled_from(("warm", "cold")),
    st.sampled_from(("short", "sustained", 5e-3)),
)
