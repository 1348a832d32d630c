"""`fasim study gpt2`: GPT-2 medium's attention beside the FlashAttention paper's measurement.

Dao et al. 2022, Figure 2 (left): batch 64, 16 heads, N = 1024, d = 64, forward and backward, on
an A100 of 40 GB. What the paper leaves open, mask and dropout, is a table of configurations here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from fasim.problem import Attention, Scenario
from fasim.readings.traffic import total
from fasim.verbs.predict import predict
from fasim.verbs.prediction import LEVELS, KernelPrediction, Prediction

if TYPE_CHECKING:
    from fasim.hardware import Profile

GPU = "a100-sxm4-40gb"
PROBLEM = Attention(64, 16, 1024, 1024, 64, direction="both")
DROPOUT = 0.1  # GPT-2's


@dataclass(frozen=True, slots=True)
class Published:
    """A column of the paper's table."""

    gflops: float
    dram_bytes: float
    time_s: float


STANDARD = Published(66.6, 40.3e9, 41.7e-3)
FLASH = Published(75.2, 4.4e9, 7.3e-3)


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the paper's table leaves open, and one answer.

    Attributes:
        schedule, implementation: one of them names what runs.
        headline: compared with the paper kernel by kernel; fixed before any comparison.
    """

    problem: Attention
    published: Published
    schedule: str | None = None
    implementation: str | None = None
    headline: bool = False

    @property
    def mask(self) -> str:
        """causal or none."""
        return "causal" if self.problem.causal else "none"


# Mask and dropout, as the paper may have had them; the first was fixed beforehand.
PROBLEMS = tuple(
    replace(PROBLEM, causal=causal, dropout=dropout)
    for dropout in (DROPOUT, 0.0)
    for causal in (False, True)
)
CONFIGURATIONS = (
    *(
        Configuration(each, STANDARD, implementation="pytorch", headline=each == PROBLEMS[0])
        for each in PROBLEMS
    ),
    *(Configuration(each, STANDARD, schedule="standard") for each in PROBLEMS),
    *(
        Configuration(each, FLASH, schedule="flash1", headline=each == PROBLEMS[0])
        for each in PROBLEMS
    ),
    *(
        Configuration(each, FLASH, implementation=name)
        for name in ("flash-attn-0.1", "flash-attn-1", "flash-attn-2")
        for each in PROBLEMS
    ),
)

# What a kernel of the standard chain is for; every other one multiplies matrices.
PURPOSES = {
    "copy": "copies",
    "stack": "copies",
    "group": "copies",
    "mask": "mask",
    "add_mask": "mask",
    "softmax": "softmax",
    "grad_output": "softmax",
    "scale": "scale",
    "dropout": "dropout",
}


def purpose(kernel: str, flash: bool) -> str:
    """matmul, mask, softmax, dropout, scale or copies; fused for FlashAttention's kernels."""
    if flash:
        return "fused"
    return next((p for start, p in PURPOSES.items() if kernel.startswith(start)), "matmul")


@dataclass(frozen=True)
class Share:
    """The kernels of one purpose in a chain. Bytes are of DRAM, modelled."""

    purpose: str
    kernels: int
    dram_bytes: int
    time_s: float


@dataclass(frozen=True)
class Run:
    """One configuration predicted, beside what was measured.

    Attributes:
        bytes_at: bytes read, written and reduced, by level.
        dram_error, time_error: predicted over published, less 1.
    """

    configuration: Configuration
    prediction: Prediction
    bytes_at: dict[str, int]
    time_s: float
    shares: tuple[Share, ...]

    @property
    def dram_error(self) -> float:
        return self.bytes_at["dram"] / self.configuration.published.dram_bytes - 1

    @property
    def time_error(self) -> float:
        return self.time_s / self.configuration.published.time_s - 1

    @property
    def uncopied_bytes(self) -> int:
        """DRAM bytes of a chain whose tensors already lie as its products want them."""
        copied = sum(share.dram_bytes for share in self.shares if share.purpose == "copies")
        return self.bytes_at["dram"] - copied

    @property
    def gflops(self) -> float:
        """Multiply-adds of the matrix products as executed, in 10⁹ operations."""
        return self.prediction.flops.tensor / 1e9


@dataclass(frozen=True)
class Gpt2Study:
    """Every configuration, and those fixed beforehand."""

    gpu: str
    scenario: Scenario
    runs: tuple[Run, ...]

    @property
    def headlines(self) -> tuple[Run, ...]:
        """Standard attention, then FlashAttention, as fixed beforehand."""
        return tuple(run for run in self.runs if run.configuration.headline)

    @property
    def fitting_batch(self) -> float:
        """The batch at which the published GFLOPs of standard attention would be right."""
        standard = self.headlines[0]
        return PROBLEM.batch * STANDARD.gflops / standard.gflops

    def to_dict(self) -> dict[str, Any]:
        return {
            "gpu": self.gpu,
            "problem": asdict(PROBLEM),
            "scenario": asdict(self.scenario),
            "batch_of_published_gflops": self.fitting_batch,
            "runs": [
                {
                    "name": run.prediction.name,
                    "mask": run.configuration.mask,
                    "dropout": run.configuration.problem.dropout,
                    "headline": run.configuration.headline,
                    "tensor_gflops": run.gflops,
                    "bytes": run.bytes_at,
                    "dram_bytes_without_copies": run.uncopied_bytes,
                    "time_ms": run.time_s * 1e3,
                    "published": {
                        "gflops": run.configuration.published.gflops,
                        "dram_bytes": run.configuration.published.dram_bytes,
                        "time_ms": run.configuration.published.time_s * 1e3,
                    },
                    "dram_error": run.dram_error,
                    "time_error": run.time_error,
                    "shares": [
                        {
                            "purpose": share.purpose,
                            "kernels": share.kernels,
                            "dram_bytes": share.dram_bytes,
                            "time_ms": share.time_s * 1e3,
                        }
                        for share in run.shares
                    ],
                }
                for run in self.runs
            ],
        }


def gpt2_study(
    profile: Profile,
    scenario: Scenario | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Gpt2Study:
    """Predicts every configuration of GPT-2 medium's attention on a GPU that holds it.

    Args:
        progress: called with configurations done and in all.

    Raises:
        Refused: the GPU cannot run one of them.
        ProblemError: its memory does not hold one.
    """
    scenario = scenario or Scenario()
    runs = []
    for done, configuration in enumerate(CONFIGURATIONS):
        if progress is not None:
            progress(done, len(CONFIGURATIONS))
        runs.append(_run(configuration, profile, scenario))
    if progress is not None:
        progress(len(CONFIGURATIONS), len(CONFIGURATIONS))
    return Gpt2Study(profile.resolved_name, scenario, tuple(runs))


def _run(configuration: Configuration, profile: Profile, scenario: Scenario) -> Run:
    prediction = predict(
        configuration.problem,
        profile,
        scenario,
        schedule=configuration.schedule,
        implementation=configuration.implementation,
    )
    time_s = prediction.fitting_time_s
    return Run(
        configuration,
        prediction,
        {level: total(prediction.traffic[level]).total_bytes for level in LEVELS},
        time_s,
        _shares(prediction.kernels, flash=configuration.published is FLASH),
    )


def _shares(kernels: tuple[KernelPrediction, ...], flash: bool) -> tuple[Share, ...]:
    """Kernels by purpose, the longest first."""
    by_purpose: dict[str, list[KernelPrediction]] = {}
    for kernel in kernels:
        by_purpose.setdefault(purpose(kernel.name, flash), []).append(kernel)
    shares = [
        Share(
            name,
            len(group),
            sum(total(kernel.traffic["dram"]).total_bytes for kernel in group),
            sum(kernel.time_s or 0.0 for kernel in group),
        )
        for name, group in by_purpose.items()
    ]
    return tuple(sorted(shares, key=lambda share: -share.time_s))
