"""What FlashAttention-3 is predicted to bring, and where it runs."""

from dataclasses import replace
from itertools import pairwise

import pytest

from fasim.hardware import Profile, load, with_overrides
from fasim.problem import Attention, Scenario
from fasim.schedules.plan import Options, Refused
from fasim.simulator.mechanisms import without
from fasim.verbs.compare import compare
from fasim.verbs.predict import predict
from fasim.verbs.prediction import Prediction

HOPPER = load("h100")


def problem_of(
    seqlen: int, head_dim: int = 128, causal: bool = False, dtype: str = "fp16"
) -> Attention:
    batch = max(1, 16384 // seqlen)
    return Attention(batch, 2048 // head_dim, seqlen, seqlen, head_dim, 0, dtype, causal)  # type: ignore[arg-type]


def time_of(
    problem: Attention,
    name: str = "flash3",
    profile: Profile = HOPPER,
    options: Options | None = None,
    **scenario: str | float,
) -> float:
    found = predict(
        problem,
        profile,
        Scenario(**scenario),  # type: ignore[arg-type]
        schedule=None if "-" in name else name,
        implementation=name if "-" in name else None,
        options=options,
    )
    assert found.time_s is not None
    return found.time_s


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("seqlen", [4096, 16384])
def test_flash3_beats_flash2_on_a_hopper(seqlen: int, causal: bool) -> None:
    problem = problem_of(seqlen, causal=causal)
    assert time_of(problem, "flash2") >= 1.3 * time_of(problem, "flash3")
    assert time_of(problem, "flash-attn-2") >= 1.3 * time_of(problem, "flash-attn-3")


def test_one_byte_inputs_are_faster() -> None:
    assert time_of(problem_of(8192)) > 1.3 * time_of(problem_of(8192, dtype="fp8"))


def test_compare_has_flash3_where_it_runs() -> None:
    comparison = compare(problem_of(4096), [load("a100"), HOPPER])
    found = {(row.prediction.gpu, row.prediction.schedule) for row in comparison.rows}
    assert ("h100-sxm5", "flash3") in found
    assert ("a100-sxm4-80gb", "flash3") not in found
    (refused,) = comparison.refused
    assert (refused.gpu, refused.schedule) == ("a100-sxm4-80gb", "flash3")
    assert refused.reason == "it needs wgmma and tma; a100-sxm4-80gb has cp_async"


def test_the_fastest_on_a_hopper_is_flash3() -> None:
    assert predict(problem_of(4096), HOPPER).schedule == "flash3"


def test_options_reach_the_plan() -> None:
    found = predict(
        problem_of(4096), HOPPER, schedule="flash3", options=Options((64, 128), stages=3)
    )
    assert found.tile == (64, 128)
    assert found.kernels[0].warps == 4
    with pytest.raises(Refused, match="12 warps"):
        predict(problem_of(4096), HOPPER, schedule="flash3", options=Options(warps=12))
    comparison = compare(problem_of(1024), [HOPPER], options=Options(stages=1))
    assert {row.prediction.schedule for row in comparison.rows} == {"flash2", "flash3"}
    assert {refusal.schedule for refusal in comparison.refused} >= {"standard", "flash1"}


def predictions() -> list[Prediction]:
    return [
        predict(problem_of(seqlen, head_dim, causal), HOPPER, implementation=name)
        for seqlen in (256, 4096)
        for head_dim in (64, 128)
        for causal in (False, True)
        for name in ("flash-attn-3", "cudnn")
    ]


def test_no_time_is_below_its_roofline_and_every_tick_is_charged() -> None:
    for found in predictions():
        assert found.time_s is not None
        assert found.roofline_s is not None
        assert found.time_s >= found.roofline_s
        assert sum(found.stalls_s.values()) == pytest.approx(found.time_s, rel=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_longer_rows_take_longer(causal: bool) -> None:
    times = [
        time_of(Attention(1, 16, 2048, n, 128, causal=causal)) for n in (2048, 3000, 4096, 8192)
    ]
    assert all(shorter < longer for shorter, longer in pairwise(times))


@pytest.mark.parametrize("key", ["sm_count", "dram.bandwidth", "l2.read_bytes_per_clock_per_sm"])
def test_more_hardware_is_never_slower(key: str) -> None:
    problem = problem_of(2048)
    base = time_of(problem)
    doubled = {"sm_count": "264", "dram.bandwidth": "6.7 TB/s"}.get(key, "72.8")
    assert time_of(problem, profile=with_overrides(HOPPER, {key: doubled})) <= base * 1.001


def test_the_counter_of_causal_blocks_costs_a_launch() -> None:
    """A second launch on a stream, a shorter one in a graph, none in a profiler."""
    problem = problem_of(1024, causal=True)
    launch = HOPPER.gpu.launch
    alone = time_of(problem, launch="kernel")
    assert time_of(problem, launch="stream") - alone == pytest.approx(2 * launch.stream_s)
    assert time_of(problem, launch="graph") - alone == pytest.approx(2 * launch.graph_s)
    full = replace(problem, causal=False)
    alone = time_of(full, launch="kernel")
    assert time_of(full, launch="stream") - alone == pytest.approx(launch.stream_s)


def test_short_runs_are_not_limited_by_power() -> None:
    problem = problem_of(8192)
    short, *timed, sustained = times = [
        time_of(problem, run_length=r) for r in ("short", 1e-3, 1e-2, 1e-1, "sustained")
    ]
    assert 0.6 < short / sustained < 0.9
    assert times == sorted(set(times))
    assert timed[0] / short < 1.05  # a tenth of the time constant
    assert sustained / timed[-1] < 1.05  # ten of them
    with without(["power"]):
        unlimited = [time_of(problem, run_length=r) for r in ("short", 1e-1, "sustained")]
    assert unlimited == [short] * 3


def test_pairs_of_blocks_halve_what_leaves_l2() -> None:
    """Even row tiles share reads of K and V, an odd number of them does not."""
    even, odd = (
        predict(Attention(1, 16, rows, 4096, 128), HOPPER, implementation="flash-attn-3")
        for rows in (128 * 16, 128 * 17)
    )
    for found, factor in ((even, 2), (odd, 1)):
        asked, moved = (found.traffic[level]["K"].read_bytes for level in ("global", "l2"))
        assert asked == factor * moved
    assert even.traffic["l2"]["Q"] == even.traffic["global"]["Q"]
