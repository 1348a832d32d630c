"""The schedules over the length of the sequence."""

import json
from dataclasses import replace

from fasim.hardware import load
from fasim.problem import Attention
from fasim.report.studies.scaling import scaling_text
from fasim.verbs.predict import predict
from fasim.verbs.studies.scaling import LENGTHS, scaling_study

PROBLEM = Attention(1, 16, 128, 128, 128)


def test_tokens_stay_and_every_row_is_a_prediction() -> None:
    study = scaling_study(PROBLEM, load("a100"))
    assert LENGTHS == (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
    assert all(row.batch * row.seqlen == 16384 for row in study.rows if row.seqlen <= 16384)
    assert study.at("flash2", 65536).batch == 1
    row = study.at("flash2", 4096)
    problem = replace(PROBLEM, batch=4, seqlen_q=4096, seqlen_k=4096)
    assert row.time_s == predict(problem, load("a100"), schedule="flash2").time_s
    assert study.schedules == ("standard", "flash1", "flash2")
    assert "wgmma" in study.refused["flash3"]


def test_memory_grows_with_the_square_or_with_the_length() -> None:
    study = scaling_study(PROBLEM, load("h100"), lengths=(16384, 32768, 65536))
    assert study.schedules == ("standard", "flash1", "flash2", "flash3")
    for name in ("flash1", "flash2", "flash3"):
        ratio = study.at(name, 65536).peak_bytes / study.at(name, 32768).peak_bytes
        assert ratio == 2
    ratio = study.at("standard", 65536).peak_bytes / study.at("standard", 32768).peak_bytes
    assert 3.9 < ratio < 4


def test_24_gib_run_out_where_the_arithmetic_says() -> None:
    card = load("rtx-4090")
    # Batch 1: S and P of 16 heads, Q, K, V and O, in two bytes.
    lengths = (19840, 19904, 19968, 20096)
    study = scaling_study(PROBLEM, card, lengths=lengths)
    for length in lengths:
        needed = 2 * 16 * length**2 * 2 + 4 * 16 * length * 128 * 2
        row = study.at("standard", length)
        assert row.peak_bytes == needed
        assert (row.time_s is None) is (needed > 24 * 2**30)
    assert study.out_of_memory("standard") is not None
    assert study.out_of_memory("flash2") is None
    assert "out of memory" in scaling_text(study)
    assert json.loads(json.dumps(study.to_dict(), allow_nan=False))["out_of_memory_from"]
