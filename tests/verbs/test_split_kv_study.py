"""The study of split-KV: where splitting begins to pay."""

from dataclasses import replace

from fasim.hardware import load
from fasim.problem import Attention, Scenario
from fasim.report.studies.split_kv import split_kv_text
from fasim.verbs.studies.split_kv import crossover, decoded, split_kv_study

PROBLEM = Attention(1, 32, 1, 1, 128, 8)
WARM = Scenario()


def test_splitting_is_faster_from_the_crossover_and_not_a_tile_before() -> None:
    a100 = load("a100")
    for batch in (1, 12):
        problem = replace(PROBLEM, batch=batch)
        found = crossover(problem, a100, WARM)
        assert found is not None
        assert found % 128 == 0
        assert decoded(problem, a100, found, WARM).speedup > 1
        assert decoded(problem, a100, found - 128, WARM).speedup <= 1


def test_a_full_gpu_never_splits() -> None:
    problem = replace(PROBLEM, batch=27)  # 216 blocks: every slot of an A100
    assert crossover(problem, load("a100"), WARM) is None
    assert decoded(problem, load("a100"), 8192, WARM).num_splits == 1


def test_the_study_prints_times_and_the_crossover() -> None:
    study = split_kv_study(PROBLEM, load("a100"), batches=(1, 27))
    by_length = {row.seqlen_k: row for row in study.rows}
    assert all(by_length[keys].speedup > 1 for keys in (8192, 16384, 131072))
    blocks = {each.blocks: each.seqlen_k for each in study.crossovers}
    assert blocks[8] is not None
    assert blocks[8] < 8192
    assert blocks[216] is None
    text = split_kv_text(study)
    assert "never" in text
    assert str(blocks[8]) in text
    assert study.to_dict()["rows"][-1]["seqlen_k"] == 131072
