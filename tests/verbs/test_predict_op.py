"""One operator's prediction: bounds, classes, what its time depends on, refusals."""

import json
from typing import Any

import pytest

from fasim.hardware import load, parse_overrides
from fasim.operators import Operator, gemm, over_elements, over_rows
from fasim.problem import Attention, Scenario
from fasim.schedules.fit import overflow
from fasim.schedules.operators.plans import plans
from fasim.schedules.plan import Refused
from fasim.simulator.mechanisms import without
from fasim.simulator.simulate import Slower
from fasim.verbs.predict import predict, predict_plan
from fasim.verbs.predict_op import OperatorPrediction, predict_op

ALONE = Scenario("kernel", "cold")


def time_s(operator: Operator, gpu: str = "a100", scenario: Scenario = ALONE, **sets: str) -> float:
    overrides = parse_overrides([f"{key}={value}" for key, value in sets.items()])
    found = predict_op(operator, load(gpu, overrides), scenario).time_s
    assert found is not None
    return found


OPERATORS = (
    gemm(1024, 1024, 1024),
    gemm(64, 4096, 4096, dtype="bf16"),
    gemm(256, 256, 256, dtype="fp32"),
    over_rows("softmax", 4096, 512),
    over_rows("reduce", 4096, 2048),
    over_rows("norm", 4096, 2048, "rms"),
    over_elements("elementwise", 2**22, "silu"),
    over_elements("copy", 2**22, dtype="fp32"),
)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
@pytest.mark.parametrize("gpu", ["a100", "h100", "rtx4090"])
def test_no_time_below_the_roofline_and_every_second_has_a_cause(
    operator: Operator, gpu: str
) -> None:
    found = predict_op(operator, load(gpu), ALONE)
    prediction = found.prediction
    assert found.time_s is not None
    assert prediction.roofline_s is not None
    assert found.time_s >= prediction.roofline_s > 0
    assert sum(prediction.stalls_s.values()) == pytest.approx(found.time_s, rel=1e-6)
    moved = prediction.intensity.moved_bytes
    assert found.time_s >= moved / 2 / load(gpu).gpu.dram.bandwidth_bytes_per_s


@pytest.mark.parametrize(
    ("operator", "unit", "bound"),
    [
        (gemm(4096, 4096, 4096), "tensor", "compute"),
        (gemm(1, 4096, 4096), "tensor", "memory"),
        (gemm(4096, 4096, 4096, dtype="fp32"), "fp32", "compute"),
        (over_rows("softmax", 4096, 4096), "fp32", "memory"),
        (over_elements("elementwise", 10**6, "dropout"), "fp32", "memory"),
        (over_rows("norm", 4096, 4096), "fp32", "memory"),
    ],
)
def test_classes(operator: Operator, unit: str, bound: str) -> None:
    found = predict_op(operator, load("a100")).prediction.intensity
    assert (found.unit, found.bound) == (unit, bound)


def test_intensity_by_hand() -> None:
    found = predict_op(gemm(512, 256, 128), load("a100")).prediction.intensity
    assert found.flops == 2 * 512 * 256 * 128
    assert found.moved_bytes == 2 * (512 * 128 + 256 * 128 + 512 * 256)
    # 108 SMs x 2048 FLOP a clock x 1.41 GHz, over 2.039 TB/s.
    assert found.ridge_flops_per_byte == pytest.approx(108 * 2048 * 1.41e9 / 2.039e12, rel=5e-3)


def test_attention_is_classified_too() -> None:
    found = predict(Attention(4, 16, 4096, 4096, 64), load("a100"), schedule="flash2").intensity
    io = 4 * 4 * 16 * 4096 * 64 * 2 + 4 * 16 * 4096 * 4  # Q, K, V, O; LSE
    assert (found.flops, found.moved_bytes) == (4 * 4 * 16 * 4096**2 * 64, io)
    assert found.bound == "compute"
    one = predict(Attention(4, 16, 1, 4096, 64), load("a100"), schedule="decode").intensity
    assert one.bound == "memory"


def test_a_launch_costs_and_a_warm_cache_helps() -> None:
    operator = over_rows("reduce", 8192, 1024)
    alone, warm = time_s(operator), time_s(operator, scenario=Scenario("kernel", "warm"))
    in_graph = time_s(operator, scenario=Scenario("graph", "cold"))
    on_stream = time_s(operator, scenario=Scenario("stream", "cold"))
    assert warm < alone < in_graph < on_stream


def test_more_bandwidth_is_as_much_faster() -> None:
    operator = over_elements("elementwise", 2**28, "add")
    slower, faster = (time_s(operator, **{"dram.bandwidth": f"{bw} TB/s"}) for bw in (1, 2))
    assert slower / faster == pytest.approx(2, rel=0.05)


def test_rows_that_are_not_aligned_cost() -> None:
    aligned, pairs, odd = (time_s(gemm(4096, 4096, k)) for k in (4096, 4094, 4095))
    assert aligned < pairs < odd


def test_a_result_of_few_tiles_is_split_and_gains() -> None:
    found = predict_op(gemm(64, 256, 16384), load("a100"))
    assert [kernel.name for kernel in found.prediction.kernels] == ["gemm_split_k", "split_k_sum"]
    assert found.considered > 1


@pytest.mark.parametrize(("gpu", "k"), [("a100", 700), ("h100", 1024), ("rtx4090", 512)])
def test_kernels_left_out_are_slower(gpu: str, k: int) -> None:
    profile, operator = load(gpu), gemm(384, 3000, k)
    best_s = predict_op(operator, profile, ALONE).time_s
    assert best_s is not None
    left_out, times = 0, []
    for _, plan in plans(operator, profile.gpu):
        if overflow(plan, profile.gpu) is not None:
            continue
        asked = operator.in_attention, profile, ALONE, plan
        time_s = predict_plan(*asked).time_s
        assert time_s is not None
        times.append(time_s)
        try:
            predict_plan(*asked, at_most_s=best_s)
        except Slower:
            left_out += 1
            assert time_s > best_s
    assert best_s == min(times)
    assert left_out > len(times) / 3


def test_without_waves_no_kernel_is_left_out_by_its_waves() -> None:
    profile, operator = load("a100"), gemm(128 * 109, 128, 4096)  # one block in the second wave
    with without(["waves"]):
        whole = [plan for _, plan in plans(operator, profile.gpu) if plan.num_splits == 1]
        for plan in whole[:3]:
            asked = operator.in_attention, profile, ALONE, plan
            time_s = predict_plan(*asked).time_s
            assert time_s is not None
            assert predict_plan(*asked, at_most_s=time_s).time_s == time_s


def test_memory_too_small_is_a_result() -> None:
    found = predict_op(over_elements("copy", 2**36), load("a100"))
    assert found.time_s is None
    assert not found.prediction.fits
    assert found.to_dict()["bytes_per_s"] is None


def test_a_row_that_registers_do_not_hold_is_refused() -> None:
    with pytest.raises(Refused, match="rows of 40000 columns"):
        predict_op(over_rows("norm", 10, 40_000), load("a100"))


def test_json() -> None:
    found: OperatorPrediction = predict_op(gemm(256, 128, 64, dtype="bf16"), load("a100"))
    document: dict[str, Any] = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    asked = {"kind": "gemm", "op": None, "dtype": "bf16", "m": 256, "n": 128, "k": 64, "batch": 1}
    assert document["operator"] == asked
    assert "problem" not in document
    assert document["tflops_per_s"] == pytest.approx(2 * 256 * 128 * 64 / document["time_ms"] / 1e9)
    assert document["intensity"]["bound"] == "memory"
    assert document["traffic"]["compulsory"]["write_bytes"] == 256 * 128 * 2
