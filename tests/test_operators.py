"""Operators as problems: names, sizes, and what is refused."""

import pytest

from fasim.operators import OPERATIONS, Operator, gemm, over_elements, over_rows
from fasim.problem import ProblemError


def test_sizes_under_the_names_they_are_asked_by() -> None:
    assert gemm(2, 3, 4, 5).sizes == {"m": 2, "n": 3, "k": 4, "batch": 5}
    assert over_rows("softmax", 2, 3).sizes == {"rows": 2, "columns": 3}
    assert over_elements("copy", 7).sizes == {"elements": 7}
    assert gemm(2, 3, 4, 5).nominal_flops == 2 * 2 * 3 * 4 * 5
    assert over_rows("softmax", 2, 3).nominal_flops == 0


def test_the_first_operation_is_the_usual_one() -> None:
    for kind, operations in OPERATIONS.items():
        assert Operator(kind, 1, 1).operation == (operations[0] if operations else "")
    assert over_rows("norm", 2, 3).name == "norm layer"


def test_tf32_lies_in_memory_as_fp32() -> None:
    product = gemm(2, 3, 4, dtype="tf32")
    assert product.element_bytes == 4
    assert product.in_attention.dtype == "fp32"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("conv", 1, 1), "operator is 'conv'"),
        (("gemm", 0, 1), "m is 0; it must be a whole number"),
        (("gemm", 1, 1, -1), "k is -1"),
        (("copy", 1, 0), "elements is 0"),
        (("softmax", 1, 1, 1, 1, "sum"), "op of softmax is 'sum'; it has none"),
        (("norm", 1, 1, 1, 1, "batch"), "choose from layer, rms"),
        (("softmax", 1, 1, 1, 1, "", "tf32"), "dtype of softmax is 'tf32'"),
    ],
)
def test_refusals_name_the_value(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        Operator(*arguments)  # type: ignore[arg-type]
