"""Which kernels a library may run for a product, and that their bound is one."""

import pytest

from fasim.hardware import Gpu, load
from fasim.operators import Operator, gemm
from fasim.problem import Scenario
from fasim.schedules.fit import overflow
from fasim.schedules.implementations.cublas_gemm import alignment_bytes, candidates
from fasim.schedules.operators.plans import plans
from fasim.schedules.plan import Refused
from fasim.verbs.predict import predict_plan


@pytest.fixture(scope="module")
def h100() -> Gpu:
    return load("h100").gpu


@pytest.mark.parametrize(
    ("operator", "aligned"),
    [
        (gemm(7, 64, 64), 16),
        (gemm(7, 64, 60), 8),
        (gemm(7, 62, 64), 4),
        (gemm(7, 64, 63), 2),
        (gemm(7, 63, 63, dtype="tf32"), 4),
    ],
)
def test_rows_start_at_multiples_of(operator: Operator, aligned: int) -> None:
    assert alignment_bytes(operator) == aligned


def test_rows_that_tma_does_not_take_go_to_older_kernels(h100: Gpu) -> None:
    for depth, unit in ((4096, "wgmma"), (4095, "mma.sync")):
        found = candidates(gemm(512, 512, depth), h100)
        assert {each.gemm.mapping.matrix_unit for each in found} == {unit}


def test_only_a_grid_that_leaves_sms_idle_is_split(h100: Gpu) -> None:
    small = candidates(gemm(64, 256, 8192), h100)
    assert max(each.splits for each in small) == 8
    whole_waves = gemm(132 * 128, 256, 8192)
    full = [c for c in candidates(whole_waves, h100) if c.gemm.tile_m == 128]
    assert {each.splits for each in full} == {1}
    assert {each.splits for each in candidates(gemm(64, 256, 128), h100)} == {1}  # two steps


@pytest.mark.parametrize("name", ["a100", "h100", "rtx4090"])
@pytest.mark.parametrize(
    "operator",
    [
        gemm(1000, 700, 900),
        gemm(16, 1024, 4096),
        gemm(2048, 2048, 1024, batch=3),
        gemm(512, 512, 511),
        gemm(512, 512, 512, dtype="fp32"),
        gemm(512, 512, 512, dtype="tf32"),
    ],
)
def test_no_plan_beats_its_bound(name: str, operator: Operator) -> None:
    profile = load(name)
    scenario = Scenario("kernel", "warm", "short")
    bounds = [least_s for least_s, _ in plans(operator, profile.gpu)]
    assert bounds == sorted(bounds)
    for least_s, plan in plans(operator, profile.gpu)[::3]:
        if overflow(plan, profile.gpu) is None:
            found = predict_plan(operator.in_attention, profile, scenario, plan)
            assert found.time_s is not None
            assert found.time_s >= least_s


def test_what_nobody_multiplies_is_refused() -> None:
    with pytest.raises(Refused, match="tcgen05, which is not modelled"):
        plans(gemm(64, 64, 64), load("b200-sxm").gpu)
    assert plans(gemm(64, 64, 64, dtype="fp32"), load("b200-sxm").gpu)
