"""The error on a sample: small, bounded by the yardstick's, for every name in the catalogue."""

import math
from dataclasses import replace

import pytest

from fasim.hardware import Gpu, load
from fasim.problem import Attention
from fasim.readings.accuracy import accuracy
from fasim.schedules import catalog
from fasim.schedules.plan import Refused

HOPPER = load("h100").gpu  # runs everything
LARGE = Attention(4, 16, 65536, 65536, 64, kv_heads=4, dtype="bf16", causal=True)


@pytest.mark.parametrize("schedule", catalog.SCHEDULES)
def test_a_large_problem_is_judged_by_a_sample(schedule: str) -> None:
    found = accuracy(LARGE, HOPPER, schedule)
    assert 0 < found.max_error <= 2 * found.reference_error + 2**-7
    assert (found.seqlen_q, found.seqlen_k) == (256, 256)
    assert found.to_dict()["sample"] == {"heads": 1, "seqlen_q": 256, "seqlen_k": 256}


@pytest.mark.parametrize("implementation", catalog.IMPLEMENTATIONS)
@pytest.mark.parametrize("causal", [False, True])
def test_implementations_too(implementation: str, causal: bool) -> None:
    powers_of_two = implementation.startswith(("triton", "gpu-kernels"))
    head_dim = 64 if powers_of_two else 40
    # FlashAttention-1's mask begins at the first key: as many queries as keys. Megatron's rows
    # are multiples of four.
    keys = 100 if implementation in ("flash-attn-0.1", "flash-attn-1", "megatron") else 130
    queries = 100
    if implementation == "triton-2.1":  # whole tiles of as many queries as keys
        queries = keys = 128
    problem = Attention(1, 2, queries, keys, head_dim, causal=causal)
    schedule = catalog.IMPLEMENTATIONS[implementation].schedule
    found = accuracy(problem, HOPPER, schedule, implementation)
    assert math.isfinite(found.max_error)
    assert found.max_error <= 2 * found.reference_error + 2**-9
    assert (found.seqlen_q, found.seqlen_k) == (queries, keys)


@pytest.mark.parametrize("schedule", ["standard", "flash1", "flash2"])
@pytest.mark.parametrize("direction", ["backward", "both"])
def test_gradients_are_judged_too(a100: Gpu, schedule: str, direction: str) -> None:
    problem = Attention(1, 2, 300, 200, 64, causal=True, direction=direction)
    found = accuracy(problem, a100, schedule)
    forward = accuracy(replace(problem, direction="forward"), a100, schedule)
    assert 0 < found.max_error <= 2 * found.reference_error + 2**-9
    assert found.max_error >= forward.max_error * (direction == "both")


def test_what_the_catalogue_refuses_has_no_error(a100: Gpu) -> None:
    with pytest.raises(Refused, match="unknown schedule"):
        accuracy(LARGE, a100, "flash9")
