"""Device memory: by tensor, and its peak over the chain."""

from dataclasses import replace

import pytest

from fasim.hardware import Gpu, load
from fasim.problem import Attention
from fasim.readings.footprint import footprint, intermediates
from fasim.schedules import catalog
from tests.readings.chains import Tiles, build_pytorch

GIB = 2**30


def test_standard_holds_scores_and_probabilities(a100: Gpu) -> None:
    problem = Attention(2, 3, 256, 512, 64)
    query, key, scores = 2 * 3 * 256 * 64 * 2, 2 * 3 * 512 * 64 * 2, 2 * 3 * 256 * 512 * 2
    found = footprint(catalog.plan(problem, a100, "standard").kernels)
    assert found.by_tensor == {
        "Q": query,
        "K": key,
        "S": scores,
        "P": scores,
        "V": key,
        "O": query,
    }
    assert found.peak_bytes == 2 * query + 2 * key + 2 * scores
    assert found.lives["Q"] == found.lives["O"] == (0, 2)
    assert (found.lives["S"], found.lives["P"]) == ((0, 1), (1, 2))


def test_the_peak_of_a_long_chain_is_not_the_sum() -> None:
    """Eager PyTorch, causal: S is gone before P is there."""
    problem = Attention(1, 4, 1024, 1024, 64, causal=True)
    query, scores, mask = 4 * 1024 * 64 * 2, 4 * 1024 * 1024 * 2, 1024 * 1024 * 2
    found = footprint(build_pytorch(problem, Tiles(64, 64)))
    held_by_caller = 4 * query
    # While the mask is added: S, the mask and S_masked, as the copies of Q and K are done with.
    assert found.peak_bytes == held_by_caller + 2 * scores + mask
    wide_masks = 2 * 2 * mask  # in FP32, filled and cut
    assert sum(found.by_tensor.values()) == (
        held_by_caller + 3 * scores + 3 * query + mask + wide_masks
    )
    kernels = build_pytorch(problem, Tiles(64, 64))
    assert intermediates(kernels) == {
        *("Q_copy", "K_copy", "V_copy"),
        *("mask_full", "mask_fp32", "mask"),
        *("S", "S_masked", "P"),
    }


def test_what_a_kernel_reads_again_of_its_own_is_an_output(a100: Gpu) -> None:
    kernels = catalog.plan(Attention(1, 1, 512, 512, 64), a100, "flash1").kernels
    assert intermediates(kernels) == frozenset()


def test_standard_at_64k_does_not_fit_24_gib() -> None:
    gpu = load("rtx4090").gpu
    problem = Attention(1, 16, 65536, 65536, 64)
    standard = footprint(catalog.plan(problem, gpu, "standard").kernels)
    assert standard.by_tensor["S"] == 128 * GIB
    assert standard.peak_bytes > 256 * GIB > gpu.dram.capacity_bytes
    assert footprint(catalog.plan(problem, gpu, "flash2").kernels).peak_bytes < GIB


@pytest.mark.parametrize("schedule", ["flash1", "flash2"])
def test_flash_is_linear_in_length(a100: Gpu, schedule: str) -> None:
    rows = {"flash1": 2, "flash2": 1}[schedule]  # row_max and row_sum, or LSE
    for n in (1024, 4096, 65536):
        kernels = catalog.plan(Attention(2, 4, n, n, 64), a100, schedule).kernels
        assert footprint(kernels).peak_bytes == 2 * 4 * n * (4 * 64 * 2 + rows * 4)


# P's lifetime.


def test_training_holds_p_where_inference_does_not(a100: Gpu) -> None:
    problem = Attention(2, 8, 1024, 1024, 64)
    scores, query = 2 * 8 * 1024 * 1024 * 2, 2 * 8 * 1024 * 64 * 2
    inference = catalog.plan(problem, a100, "standard").kernels
    training = catalog.plan(replace(problem, direction="both"), a100, "standard").kernels
    last = len(inference) - 1
    assert footprint(inference).lives["P"] == (1, last)
    assert footprint(training).lives["P"][1] > last
    # Backward, while dS is made: P, dP and dS.
    assert footprint(training).peak_bytes == 8 * query + 3 * scores
    assert footprint(inference).peak_bytes == 4 * query + 2 * scores


def test_flash_saves_a_number_a_row(a100: Gpu) -> None:
    problem = Attention(2, 8, 4096, 4096, 64, direction="both")
    found = footprint(catalog.plan(problem, a100, "flash2").kernels)
    query, rows = 2 * 8 * 4096 * 64 * 2, 2 * 8 * 4096 * 4
    assert found.by_tensor["LSE"] == rows
    assert found.lives["LSE"] == (0, 2)
    # Q, K, V, O, dO, dQ, dK, dV; LSE and delta; dQ in FP32 from its zeroing to its rounding.
    assert found.lives["dQ_accum"] == (1, 3)
    assert found.peak_bytes == 8 * query + 2 * rows + 2 * query


def test_training_at_length_runs_out_where_inference_fits() -> None:
    gpu = load("rtx4090").gpu
    # Of 16 heads' 8,192 x 8,192 scores: 2 GiB each of S and P, of P, dP and dS.
    problem = Attention(5, 16, 8192, 8192, 64)
    capacity = gpu.dram.capacity_bytes
    inference = footprint(catalog.plan(problem, gpu, "standard").kernels).peak_bytes
    training = replace(problem, direction="both")
    assert (
        inference < capacity < footprint(catalog.plan(training, gpu, "standard").kernels).peak_bytes
    )
    assert footprint(catalog.plan(training, gpu, "flash2").kernels).peak_bytes < GIB
