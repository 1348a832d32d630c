"""GPT-2 medium's attention beside the FlashAttention paper's measurement."""

import json

import pytest

from fasim.hardware import load, parse_overrides
from fasim.problem import ProblemError
from fasim.report.studies.gpt2 import gpt2_text
from fasim.schedules import catalog
from fasim.verbs.studies.gpt2 import (
    CONFIGURATIONS,
    GPU,
    STANDARD,
    Configuration,
    Gpt2Study,
    gpt2_study,
    purpose,
)

KEY_BYTES = 64 * 16 * 1024 * 64 * 2


@pytest.fixture(scope="module")
def study() -> Gpt2Study:
    return gpt2_study(load(GPU))


def test_flash_moves_between_compulsory_and_global_bytes_and_less_than_standard(
    study: Gpt2Study,
) -> None:
    for run in study.runs:
        levels = run.bytes_at
        # Summed over kernels: a chain finds a little of what the kernel before left in L2.
        assert levels["compulsory"] <= levels["dram"] * 1.01
        # Whole sectors reach L2: of K and dK as eager PyTorch transposes them 16 times the bytes.
        sectors = 2 * 15 * KEY_BYTES if run.configuration.implementation == "pytorch" else 0
        assert levels["dram"] <= levels["l2"] <= levels["global"] + sectors
    standard, flash = study.headlines
    assert flash.bytes_at["compulsory"] <= flash.bytes_at["dram"]
    assert standard.bytes_at["dram"] > 5 * flash.bytes_at["dram"]
    assert standard.time_s > 2.5 * flash.time_s


def test_errors_are_of_the_published_numbers(study: Gpt2Study) -> None:
    standard, flash = study.headlines
    assert standard.dram_error == pytest.approx(standard.bytes_at["dram"] / 40.3e9 - 1)
    assert flash.time_error == pytest.approx(flash.time_s / 7.3e-3 - 1)
    # 12·B·H·N²·d: two products forward, four of the same size backward.
    assert standard.gflops == pytest.approx(12 * 64 * 16 * 1024**2 * 64 / 1e9)
    assert study.fitting_batch == pytest.approx(64 * 66.6 / standard.gflops)


def test_kernels_by_purpose_are_the_whole_chain(study: Gpt2Study) -> None:
    for run in study.runs:
        assert sum(share.kernels for share in run.shares) == len(run.prediction.kernels)
        assert sum(share.dram_bytes for share in run.shares) == run.bytes_at["dram"]
        assert sum(share.time_s for share in run.shares) <= run.time_s * 1.001
    causal = next(run for run in study.runs if run.configuration.mask == "causal")
    purposes = {"softmax", "matmul", "copies", "mask", "dropout", "scale"}
    assert {share.purpose for share in causal.shares} == purposes
    standard = study.headlines[0]
    # Q, K, V and the gradients of all three, in and out once each; L2 keeps a little.
    tensor_bytes = 64 * 16 * 1024 * 64 * 2
    copied = standard.bytes_at["dram"] - standard.uncopied_bytes
    assert copied == pytest.approx(6 * 2 * tensor_bytes, rel=0.05)


def test_what_was_fixed_is_within_its_bounds_or_nearly(study: Gpt2Study) -> None:
    """Of standard's 44.5 GB, 40.8 are of scores: 38 bytes each, as many as its kernels ask for."""
    standard, flash = study.headlines
    scores = 64 * 16 * 1024**2
    once = 64 * 16 * 1024 * 64 * 2
    # And of Q, K, V, O and gradients: 12 in and out of products, 6 copies, 2 scaled.
    assert standard.bytes_at["compulsory"] == 38 * scores + (12 + 2 * 6 + 2 * 2) * once
    assert 0.10 < standard.dram_error < 0.11
    assert abs(flash.dram_error) < 0.2


def test_what_was_fixed_is_dropout_without_a_mask_and_every_other_is_shown(
    study: Gpt2Study,
) -> None:
    for run in study.headlines:
        assert run.configuration.problem.dropout == 0.1
        assert run.configuration.mask == "none"
    seen = {
        (run.prediction.name, run.configuration.mask, run.configuration.problem.dropout)
        for run in study.runs
    }
    for name in {run.prediction.name for run in study.runs}:
        assert {(m, d) for n, m, d in seen if n == name} == {
            ("none", 0.1),
            ("causal", 0.1),
            ("none", 0.0),
            ("causal", 0.0),
        }


@pytest.mark.parametrize("configuration", [c for c in CONFIGURATIONS if c.published is STANDARD])
def test_matmul_is_what_the_matrix_unit_runs(configuration: Configuration) -> None:
    planned = catalog.plan(
        configuration.problem, load(GPU).gpu, configuration.schedule, configuration.implementation
    )
    for kernel in planned.kernels:
        multiplies = kernel.mapping.matrix_unit != "none"
        assert (purpose(kernel.name, flash=False) == "matmul") is multiplies, kernel.name


def test_a_gpu_without_the_memory_is_refused_in_a_line() -> None:
    small = load(GPU, parse_overrides(["dram.capacity=4GiB"]))
    with pytest.raises(ProblemError, match=r"pytorch needs [0-9.]+ GiB of .* has 4 GiB"):
        gpt2_study(small)


def test_text_and_json_show_the_paper_beside_the_model(study: Gpt2Study) -> None:
    text = gpt2_text(study)
    for said in ("40.3 GB", "4.4 GB", "41.7 ms", "7.3 ms", "fit a batch of 5.2, not of 64"):
        assert said in text
    document = json.loads(json.dumps(study.to_dict(), allow_nan=False))
    assert len(document["runs"]) == len(CONFIGURATIONS)
    assert [run["headline"] for run in document["runs"]].count(True) == 2
