"""fasim: what does this attention schedule cost on that GPU, and why?

    >>> import fasim
    >>> problem = fasim.Attention(batch=4, heads=32, seqlen_q=4096, seqlen_k=4096, head_dim=128)
    >>> prediction = fasim.predict(problem, fasim.load("a100"), schedule="flash2")
    >>> prediction.traffic["global"]["O"].write_bytes == 128 * 2**20
    True

Names are loaded when first used; the import itself loads nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fasim.hardware import Gpu, Profile, ProfileError, load
    from fasim.operators import Operator
    from fasim.problem import Attention, ProblemError, Scenario
    from fasim.schedules.plan import Options, Refused
    from fasim.verbs.compare import Comparison, compare
    from fasim.verbs.predict import predict
    from fasim.verbs.predict_op import OperatorPrediction, predict_op
    from fasim.verbs.prediction import Prediction
    from fasim.verbs.validate import Validation, validate
    from fasim.verbs.validate_operators import OperatorValidation, validate_operators

__version__ = "0.1.0"

_HOMES = {
    "Attention": "fasim.problem",
    "Comparison": "fasim.verbs.compare",
    "Gpu": "fasim.hardware",
    "Operator": "fasim.operators",
    "OperatorPrediction": "fasim.verbs.predict_op",
    "OperatorValidation": "fasim.verbs.validate_operators",
    "Options": "fasim.schedules.plan",
    "Prediction": "fasim.verbs.prediction",
    "ProblemError": "fasim.problem",
    "Profile": "fasim.hardware",
    "ProfileError": "fasim.hardware",
    "Refused": "fasim.schedules.plan",
    "Scenario": "fasim.problem",
    "Validation": "fasim.verbs.validate",
    "compare": "fasim.verbs.compare",
    "load": "fasim.hardware",
    "predict": "fasim.verbs.predict",
    "predict_op": "fasim.verbs.predict_op",
    "validate": "fasim.verbs.validate",
    "validate_operators": "fasim.verbs.validate_operators",
}

__all__ = [
    "Attention",
    "Comparison",
    "Gpu",
    "Operator",
    "OperatorPrediction",
    "OperatorValidation",
    "Options",
    "Prediction",
    "ProblemError",
    "Profile",
    "ProfileError",
    "Refused",
    "Scenario",
    "Validation",
    "__version__",
    "compare",
    "load",
    "predict",
    "predict_op",
    "validate",
    "validate_operators",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fasim' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
