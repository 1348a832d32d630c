"""Operators: traffic, numerics and closed forms count the same bytes, and answers are right."""

from dataclasses import replace
from math import ceil, erf, prod, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasim.hardware import Gpu
from fasim.operators import OPERATIONS, Operator, gemm, over_elements, over_rows
from fasim.readings import numerics, reference
from fasim.readings.rounding import Array, round_to
from fasim.readings.traffic import traffic
from fasim.schedules.implementations import cublas, cublas_gemm
from fasim.schedules.language import Kernel
from fasim.schedules.mapping import Mapping
from fasim.schedules.operators import product, rowwise
from fasim.schedules.operators.plans import plans
from tests.readings.closed_forms import Bytes
from tests.readings.test_traffic import moved

DTYPES = st.sampled_from(["fp16", "bf16", "fp32"])
STREAMING = Mapping(4, matrix_unit="none", copy_unit="registers")
READS = {"add": ("X", "Y"), "mul": ("X", "Y"), "triad": ("X", "Y"), "fill": ()}


def inputs(kernels: tuple[Kernel, ...], size: float = 1.0) -> dict[str, Array]:
    """Normally distributed values for every tensor, of its shape and dtype."""
    random = np.random.default_rng(3)
    return {
        tensor.name: round_to(
            (random.standard_normal([kernel.lengths[axis] for axis in tensor.axes]) * size).astype(
                np.float32
            ),
            tensor.dtype,
        )
        for kernel in kernels
        for tensor in kernel.tensors
        if tensor.name not in ("out", "C", "C_partial", "P", "mask", "mean", "rstd")
    }


def agree(kernels: tuple[Kernel, ...], closed: list[Bytes]) -> dict[str, Array]:
    """Global bytes, kernel by kernel, three ways; what the chain leaves behind."""
    found = traffic(kernels)
    run = numerics.run(kernels, inputs(kernels))
    assert [moved(kernel.global_) for kernel in found.kernels] == closed
    assert [moved(level) for level in run.kernels] == closed
    return run.tensors


@given(
    m=st.integers(1, 90),
    n=st.integers(1, 90),
    k=st.integers(1, 120),
    batch=st.integers(1, 3),
    splits=st.integers(1, 4),
    dtype=DTYPES,
)
@settings(max_examples=60, deadline=None)
def test_products(m: int, n: int, k: int, batch: int, splits: int, dtype: str) -> None:
    tiling = replace(cublas.sgemm(), tile_m=32, tile_n=16, k_step=16)
    problem = gemm(m, n, k, batch, dtype).in_attention
    kernels = product.kernels(problem, tiling, splits, STREAMING, 32)
    size, results = problem.element_bytes, batch * m * n
    down, across = ceil(m / 32), ceil(n / 16)
    operands = {"A": (batch * across * m * k * size, 0), "B": (batch * down * n * k * size, 0)}
    if splits == 1:
        closed = [operands | {"C": (0, results * size)}]
    else:
        partial = results * splits * 4
        closed = [
            operands | {"C_partial": (0, partial)},
            {"C_partial": (partial, 0), "C": (0, results * size)},
        ]
    left = agree(kernels, closed)
    given_ = inputs(kernels)
    exact = np.einsum("bhmk,bhnk->bhmn", given_["A"], given_["B"])
    tolerance = {"fp32": 2e-2, "fp16": 2e-2, "bf16": 8e-2}[dtype]  # fp32 is multiplied as TF32
    assert np.allclose(left["C"], exact, rtol=tolerance, atol=tolerance * sqrt(k))
    flops = traffic(kernels).flops
    assert flops.tensor_useful == 2 * batch * m * n * k
    assert flops.tensor >= flops.tensor_useful


@pytest.mark.parametrize("operation", OPERATIONS["elementwise"])
@given(elements=st.integers(1, 3000), dtype=DTYPES)
@settings(max_examples=20, deadline=None)
def test_elementwise(operation: str, elements: int, dtype: str, a100: Gpu) -> None:
    operator = over_elements("elementwise", elements, operation, dtype)
    ((_, plan),) = plans(operator, a100)
    size = elements * operator.element_bytes
    closed: Bytes = dict.fromkeys(READS.get(operation, ("X",)), (size, 0))
    closed["out"] = (0, size)
    if operation == "dropout":
        closed["mask"] = (0, elements)
    left = agree(plan.kernels, [closed])
    assert moved(traffic(plan.kernels).compulsory) == closed
    given_ = {name: values[0, 0, 0] for name, values in inputs(plan.kernels).items()}
    x, y = given_.get("X", np.zeros(elements)), given_.get("Y")
    out = left["out"][0, 0, 0]
    exact = {
        "relu": np.maximum(x, 0),
        "gelu": x * np.array([(1 + erf(value / sqrt(2))) / 2 for value in x]),
        "silu": x / (1 + np.exp(-x)),
        "scale": x * 0.5,
        "add": x + (0 if y is None else y),
        "mul": x * (0 if y is None else y),
        "triad": x + 0.5 * (0 if y is None else y),
        "dropout": np.where(out == 0, 0, x / 0.9),
        "fill": np.full(elements, 0.5),
    }[operation]
    tolerance = 2e-2 if dtype == "bf16" else 2e-3  # the tanh form of gelu is within 5e-4
    assert np.allclose(out, exact, rtol=tolerance, atol=tolerance)
    if operation == "dropout" and elements > 500:
        assert 0.02 < (left["mask"] == 0).mean() < 0.3


@given(elements=st.integers(1, 3000), dtype=DTYPES)
@settings(max_examples=20, deadline=None)
def test_a_copy(elements: int, dtype: str, a100: Gpu) -> None:
    operator = over_elements("copy", elements, dtype=dtype)
    ((_, plan),) = plans(operator, a100)
    size = elements * operator.element_bytes
    left = agree(plan.kernels, [{"X": (size, 0), "out": (0, size)}])
    assert (left["out"] == left["X"]).all()


@pytest.mark.parametrize("operation", OPERATIONS["reduce"])
@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 300),
    tile=st.sampled_from([16, 64, 1000]),
    dtype=DTYPES,
)
@settings(max_examples=30, deadline=None)
def test_reductions_whole_and_in_tiles(
    operation: str, rows: int, columns: int, tile: int, dtype: str
) -> None:
    problem = over_rows("reduce", rows, columns, operation, dtype).in_attention
    kernel = rowwise.reduce_kernel(problem, operation, STREAMING, min(rows, 4), tile)
    size = problem.element_bytes
    left = agree((kernel,), [{"X": (rows * columns * size, 0), "out": (0, rows * size)}])
    x = left["X"][0, 0]
    exact = x.max(axis=1) if operation == "max" else x.astype(np.float64).sum(axis=1)
    assert np.allclose(left["out"][0, 0], exact, rtol=1e-2, atol=1e-2 * sqrt(columns))


@pytest.mark.parametrize("operation", OPERATIONS["norm"])
@given(rows=st.integers(1, 20), columns=st.integers(2, 300), dtype=DTYPES)
@settings(max_examples=30, deadline=None)
def test_norms(operation: str, rows: int, columns: int, dtype: str, a100: Gpu) -> None:
    operator = over_rows("norm", rows, columns, operation, dtype)
    ((_, plan),) = plans(operator, a100)
    (kernel,) = plan.kernels
    size, blocks = operator.element_bytes, prod(kernel.grid_shape)
    weights = ("weight", "bias") if operation == "layer" else ("weight",)
    saved = ("mean", "rstd") if operation == "layer" else ("rstd",)
    matrix = rows * columns * size
    closed = {"X": (matrix, 0), "out": (0, matrix)} | dict.fromkeys(saved, (0, rows * 4))
    again = dict.fromkeys(weights, (blocks * columns * size, 0))
    left = agree(plan.kernels, [closed | again])
    once = dict.fromkeys(weights, (columns * size, 0))
    assert moved(traffic(plan.kernels).compulsory) == closed | once
    x = left["X"][0, 0].astype(np.float64)
    if operation == "layer":
        x = x - x.mean(axis=1, keepdims=True)
    exact = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + rowwise.EPSILON) * left["weight"]
    exact = exact + left["bias"] if operation == "layer" else exact
    assert np.allclose(left["out"][0, 0], exact, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("columns", [300, 40_000])
def test_softmax_of_short_and_long_rows(columns: int, a100: Gpu) -> None:
    operator = over_rows("softmax", 3, columns)
    ((_, plan),) = plans(operator, a100)
    size = 3 * columns * 2
    loads = 1 if columns <= 32768 else 3  # registers hold no longer row
    left = agree(plan.kernels, [{"S": (loads * size, 0), "P": (0, size)}])
    exact = reference.softmax_of(left["S"])
    assert np.abs(left["P"] - exact).max() < 1e-3


@pytest.mark.parametrize("operator", [gemm(300, 200, 512), gemm(8, 256, 4096)])
def test_a_plan_of_the_library_is_the_product(operator: Operator, a100: Gpu) -> None:
    candidates = cublas_gemm.candidates(operator, a100)
    assert any(each.splits > 1 for each in candidates)
    for _, plan in plans(operator, a100)[:4]:
        run = numerics.run(plan.kernels, inputs(plan.kernels))
        exact = run.tensors["A"] @ run.tensors["B"].swapaxes(-1, -2)
        assert np.allclose(run.tensors["C"], exact, rtol=1e-2, atol=0.5)
        found = traffic(plan.kernels)
        assert [moved(kernel.global_) for kernel in found.kernels] == [
            moved(level) for level in run.kernels
        ]
