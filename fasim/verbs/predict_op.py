"""`fasim predict-op`: what one operator costs on one GPU, by the parts attention is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fasim.operators import Operator
from fasim.problem import Scenario
from fasim.schedules.fit import overflow
from fasim.schedules.operators.plans import plans
from fasim.schedules.plan import Refused
from fasim.simulator.kernel_work import launch_s
from fasim.verbs.predict import faster
from fasim.verbs.prediction import Prediction

if TYPE_CHECKING:
    from fasim.hardware import Profile


@dataclass(frozen=True)
class OperatorPrediction:
    """What an operator costs, and why.

    Attributes:
        prediction: of the kernels that run it; its problem is the operator's sizes under
            attention's axes.
        considered: plans that were lowered; these kernels were the fastest.
    """

    operator: Operator
    prediction: Prediction
    considered: int

    @property
    def time_s(self) -> float | None:
        return self.prediction.time_s

    @property
    def tflops_per_s(self) -> float | None:
        """2·batch·m·n·k over the time, in 10¹² a second; None for what is no matrix product."""
        if self.time_s is None or not self.operator.nominal_flops:
            return None
        return self.operator.nominal_flops / self.time_s / 1e12

    @property
    def bytes_per_s(self) -> float | None:
        """Compulsory bytes over the time: the bandwidth as benchmarks of operators state it."""
        if self.time_s is None:
            return None
        return self.prediction.intensity.moved_bytes / self.time_s

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: that of a prediction, with the operator in place of the problem."""
        document = self.prediction.to_dict()
        operator = {
            "kind": self.operator.kind,
            "op": self.operator.operation or None,
            "dtype": self.operator.dtype,
            **self.operator.sizes,
        }
        own = {
            "operator": operator,
            "considered": self.considered,
            "tflops_per_s": self.tflops_per_s,
            "bytes_per_s": self.bytes_per_s,
        }
        kept = {key: value for key, value in document.items() if key not in ("problem", *own)}
        return own | kept


def predict_op(
    operator: Operator, profile: Profile, scenario: Scenario | None = None
) -> OperatorPrediction:
    """FLOPs, bytes at every level, intensity, time and what bounds it, of one operator.

    Of several kernels that may run it, the fastest does.

    Raises:
        Refused: nothing that is known runs it on this GPU; the message is one line.
    """
    scenario = scenario or Scenario()
    best: Prediction | None = None
    considered, fault = 0, ""
    launch = launch_s(profile.gpu, scenario)
    for least_s, plan in plans(operator, profile.gpu):
        if best is not None and best.time_s is not None:
            if least_s + launch >= best.time_s:
                break  # none that follows is faster
            if least_s + launch * len(plan.kernels) >= best.time_s:
                continue
        found = overflow(plan, profile.gpu)
        if found is not None:
            fault = fault or found
            continue
        considered += 1
        best = faster(operator.in_attention, profile, scenario, plan, best)
    if best is None:
        raise Refused(operator.name, fault)
    return OperatorPrediction(operator, best, considered)
