"""Inputs from the host, results back to it."""

import pytest

import fasim
from fasim.problem import ProblemError
from fasim.report.predictions import prediction_text

H100 = fasim.load("h100")
PROBLEM = fasim.Attention(2, 16, 2048, 2048, 128, kv_heads=4)
MATRIX = 2 * 16 * 2048 * 128 * 2
ROWS = 2 * 16 * 2048 * 4


def predicted(host, problem=PROBLEM, gpu=H100, schedule="flash2"):
    return fasim.predict(problem, gpu, fasim.Scenario(host=host), schedule=schedule)


@pytest.mark.parametrize("schedule", ["flash1", "flash2", "flash3", "standard"])
def test_q_k_and_v_come_and_o_goes(schedule):
    host = predicted("pcie", schedule=schedule).host
    assert host.in_bytes == MATRIX + 2 * MATRIX // 4
    extra = {"flash1": 2 * ROWS, "standard": 0}.get(schedule, ROWS)  # row_max and row_sum, or LSE
    assert host.out_bytes == MATRIX + extra


def test_backward_takes_what_forward_left_and_gives_gradients():
    backward = fasim.Attention(2, 16, 2048, 2048, 128, direction="backward")
    host = predicted("pcie", backward).host
    assert host.in_bytes == 5 * MATRIX + ROWS  # Q, K, V, O, dO, LSE
    assert host.out_bytes == 3 * MATRIX


def test_time_is_that_of_the_kernels_and_of_the_bytes_at_the_links_rate():
    without, with_host = predicted("none"), predicted("pcie")
    moved = with_host.host.in_bytes + with_host.host.out_bytes
    seconds = moved / H100.gpu.host.pcie_bytes_per_s
    assert without.host is None
    assert with_host.time_s == pytest.approx(without.time_s + seconds)
    assert with_host.stalls_s["host"] == pytest.approx(seconds)
    assert sum(with_host.stalls_s.values()) == pytest.approx(with_host.time_s)
    assert with_host.roofline_s == pytest.approx(without.roofline_s + seconds)
    assert with_host.trust.status == "unvalidated"
    assert with_host.to_dict()["host"]["time_ms"] == pytest.approx(seconds * 1e3)
    assert "over pcie" in prediction_text(with_host)


def test_what_the_gpu_has_more_of_moves_only_the_kernels_share():
    without, with_host = predicted("none"), predicted("pcie")
    assert with_host.elasticities["sm_count"] > without.elasticities["sm_count"]
    assert with_host.elasticities["sm_count"] > -without.time_s / with_host.time_s - 0.05


def test_nvlink_is_faster_and_not_everywhere():
    assert predicted("nvlink").host.time_s < predicted("pcie").host.time_s
    with pytest.raises(ProblemError, match="rtx4090 has no nvlink"):
        predicted("nvlink", gpu=fasim.load("rtx4090"))
    with pytest.raises(ProblemError, match="host is 'usb'; choose from none, pcie, nvlink"):
        fasim.Scenario(host="usb")
