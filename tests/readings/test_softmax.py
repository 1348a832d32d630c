"""Softmax alone: the same bytes three ways, right answers, and an overflow that is not hidden."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasim.hardware import Gpu
from fasim.problem import Attention
from fasim.readings import numerics, reference
from fasim.readings.accuracy import accuracy
from fasim.readings.footprint import footprint
from fasim.readings.rounding import Array, round_to
from fasim.readings.traffic import traffic
from fasim.schedules import catalog, softmax
from fasim.schedules.language import Kernel
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Refused
from tests.readings.chains import problems
from tests.readings.test_traffic import moved

LOADS = {"softmax-naive": 2, "softmax-safe": 3, "softmax-online": 2}
MAPPING = Mapping(4, matrix_unit="none", copy_unit="registers")


def scores(problem: Attention, size: float = 1.0) -> Array:
    shape = (problem.batch, problem.heads, problem.seqlen_q, problem.seqlen_k)
    values = np.random.default_rng(1).standard_normal(shape) * size
    return round_to(values.astype(np.float32), problem.dtype)


def chain(name: str, problem: Attention, rows: int = 4, columns: int = 32) -> tuple[Kernel, ...]:
    return softmax.kernels(name, problem, MAPPING, rows, columns)


@pytest.mark.parametrize("name", LOADS)
@given(problem=problems(), rows=st.integers(1, 20), columns=st.integers(1, 70))
@settings(max_examples=60, deadline=None)
def test_accesses_of_an_element_three_ways(
    name: str, problem: Attention, rows: int, columns: int
) -> None:
    kernels = chain(name, problem, rows, columns)
    size = problem.batch * problem.heads * problem.seqlen_q * problem.seqlen_k
    size *= problem.element_bytes
    predicted = traffic(kernels)
    run = numerics.run(kernels, {"S": scores(problem)})
    closed = {"S": (LOADS[name] * size, 0), "P": (0, size)}
    assert moved(predicted.global_) == closed == moved(run.kernels[0])
    assert moved(predicted.compulsory) == {"S": (size, 0), "P": (0, size)}
    assert footprint(kernels).peak_bytes == 2 * size


@pytest.mark.parametrize("name", LOADS)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "fp8"])
def test_the_answer_is_right(name: str, dtype: str) -> None:
    problem = Attention(2, 3, 50, 130, 8, dtype=dtype)  # type: ignore[arg-type]
    s = scores(problem, 3.0)
    p = numerics.run(chain(name, problem), {"S": s}).tensors["P"]
    exact = reference.softmax_of(s)
    plain = round_to(exact.astype(np.float32), dtype)
    assert np.abs(p - exact).max() <= 2 * np.abs(plain - exact).max() + 1e-6


@pytest.mark.parametrize("name", LOADS)
def test_only_naive_softmax_overflows(name: str) -> None:
    problem = Attention(1, 1, 20, 100, 8)
    s = scores(problem, 100.0) + np.float32(100)
    p = numerics.run(chain(name, problem), {"S": round_to(s, "fp16")}).tensors["P"]
    if name == "softmax-naive":
        assert np.isnan(p).any()
    else:
        assert np.abs(p - reference.softmax_of(round_to(s, "fp16"))).max() < 1e-3


@pytest.mark.parametrize("name", LOADS)
def test_they_run_when_named_and_say_what_they_do_not_take(name: str, a100: Gpu) -> None:
    assert name not in catalog.SCHEDULES
    with pytest.raises(Refused, match="without a mask"):
        catalog.plan(Attention(1, 1, 64, 64, 64, causal=True), a100, name)
    with pytest.raises(Refused, match="direction is both; it runs forward"):
        catalog.plan(Attention(1, 1, 64, 64, 64, direction="both"), a100, name)
    with pytest.raises(Refused, match="dropout"):
        catalog.plan(Attention(1, 1, 64, 64, 64, dropout=0.1), a100, name)
    found = accuracy(Attention(4, 2, 500, 300, 64), a100, name)
    assert 0 < found.max_error <= 2 * found.reference_error
