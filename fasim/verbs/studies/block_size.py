"""`fasim study block-size`: bytes and time of FlashAttention-1 against its block size.

Dao et al. 2022, Figure 2 (middle): forward, N = 1024, d = 64, batch 64, 16 heads, on an A100.
Larger blocks of K and V re-read Q and O less often, until something else binds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fasim.problem import Attention, Scenario
from fasim.readings.traffic import total
from fasim.schedules.plan import Options, Refused
from fasim.verbs.predict import predict
from fasim.verbs.prediction import LEVELS

if TYPE_CHECKING:
    from fasim.hardware import Profile

GPU = "a100-sxm4-40gb"
PROBLEM = Attention(64, 16, 1024, 1024, 64)
ROWS = 64  # of Q: the paper's min(M / 4d, d) rows are d on any GPU
COLUMNS = (64, 96, 128, 192, 256, 352, 512)  # 16, 11, 8, 6, 4, 3 and 2 blocks of 1024 keys


@dataclass(frozen=True)
class BlockSize:
    """FlashAttention-1 with one block size.

    Attributes:
        columns: rows of K and V a block holds.
        bytes_at: bytes in either direction, by level; l2 and dram are modelled.
        bound: the cause that takes most of the time.
    """

    columns: int
    bytes_at: dict[str, int]
    shared_memory_bytes: int
    time_s: float
    bound: str


@dataclass(frozen=True)
class BlockSizeStudy:
    """Block sizes from small to large, and those that do not fit the GPU with the reason."""

    gpu: str
    scenario: Scenario
    rows: tuple[BlockSize, ...]
    refused: dict[int, str]

    def to_dict(self) -> dict[str, Any]:
        return {
            "gpu": self.gpu,
            "problem": asdict(PROBLEM),
            "scenario": asdict(self.scenario),
            "tile_rows": ROWS,
            "rows": [
                {
                    "columns": row.columns,
                    "bytes": row.bytes_at,
                    "shared_memory_bytes": row.shared_memory_bytes,
                    "time_ms": row.time_s * 1e3,
                    "bound": row.bound,
                }
                for row in self.rows
            ],
            "refused": [
                {"columns": columns, "reason": reason} for columns, reason in self.refused.items()
            ],
        }


def block_size_study(
    profile: Profile,
    scenario: Scenario | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> BlockSizeStudy:
    """Predicts FlashAttention-1, forward, with each block size the GPU has shared memory for.

    Args:
        progress: called with block sizes done and in all.

    Raises:
        ProblemError: the GPU's memory does not hold the problem.
    """
    scenario = scenario or Scenario()
    rows: list[BlockSize] = []
    refused: dict[int, str] = {}
    for done, columns in enumerate(COLUMNS):
        if progress is not None:
            progress(done, len(COLUMNS))
        try:
            rows.append(_block_size(columns, profile, scenario))
        except Refused as refusal:
            refused[columns] = refusal.reason
    if progress is not None:
        progress(len(COLUMNS), len(COLUMNS))
    return BlockSizeStudy(profile.resolved_name, scenario, tuple(rows), refused)


def _block_size(columns: int, profile: Profile, scenario: Scenario) -> BlockSize:
    options = Options(tile=(ROWS, columns))
    prediction = predict(PROBLEM, profile, scenario, schedule="flash1", options=options)
    time_s = prediction.fitting_time_s
    return BlockSize(
        columns,
        {level: total(prediction.traffic[level]).total_bytes for level in LEVELS},
        prediction.kernels[0].shared_memory_bytes,
        time_s,
        prediction.bound or "",
    )
