"""FlashAttention-1 over its block size: the figure of its paper."""

import json

from fasim.hardware import load
from fasim.report.studies.block_size import block_size_text
from fasim.verbs.studies.block_size import COLUMNS, GPU, PROBLEM, block_size_study


def test_bytes_fall_with_the_block_then_something_else_binds() -> None:
    study = block_size_study(load(GPU))
    assert [row.columns for row in study.rows] == list(COLUMNS)
    for level in ("global", "l2", "dram"):
        moved = [row.bytes_at[level] for row in study.rows]
        assert moved == sorted(moved, reverse=True)
    assert study.rows[0].bound == "dram"
    assert study.rows[-1].bound == "tensor"
    assert study.rows[0].time_s > 2 * study.rows[-1].time_s


def test_global_bytes_are_the_closed_form() -> None:
    # K and V once; Q a block of columns; O, row_max and row_sum set to their first
    # values, then read and written each time.
    heads, rows, d = 64 * 16, 1024, 64
    for row in block_size_study(load(GPU)).rows:
        passes = -(-PROBLEM.seqlen_k // row.columns)
        q = heads * rows * d * 2 * passes
        state = heads * rows * (d * 2 + 4 + 4)
        kv = 2 * heads * rows * d * 2
        assert row.bytes_at["global"] == kv + q + state * (1 + 2 * passes)


def test_what_does_not_fit_is_said() -> None:
    study = block_size_study(load("rtx-4090"))
    assert study.refused
    assert set(study.refused) | {row.columns for row in study.rows} == set(COLUMNS)
    assert "shared memory" in study.refused[512]
    assert "refused: 64x512" in block_size_text(study)
    assert json.loads(json.dumps(study.to_dict(), allow_nan=False))["refused"]
