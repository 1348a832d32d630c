"""Everything a GPU can run, side by side."""

import fasim
from fasim.report.predictions import comparison_text
from fasim.schedules.catalog import usual_implementations, usual_schedules
from fasim.verbs.compare import compare

PROBLEM = fasim.Attention(1, 8, 1024, 1024, 64)
TERMINAL = 120  # columns


def test_all_is_every_schedule_that_suits_and_every_implementation():
    done = []
    found = compare(
        PROBLEM, [fasim.load("a100")], everything=True, progress=lambda *at: done.append(at)
    )
    named = {row.prediction.name for row in found.rows} | {each.schedule for each in found.refused}
    assert named == {*usual_schedules(PROBLEM), *usual_implementations(PROBLEM)}
    refused = {each.schedule for each in found.refused}
    assert {"flash3", "flash-attn-3", "cudnn"} <= refused
    assert done[0] == (0, len(named))
    assert done[-1] == (len(named), len(named))


def test_many_fit_a_terminal_and_few_are_opened():
    many = comparison_text(compare(PROBLEM, [fasim.load("a100")], everything=True))
    assert max(map(len, many.splitlines())) <= TERMINAL
    assert len(many.splitlines()) < 60
    assert "by tensor\n" not in many
    few = comparison_text(compare(PROBLEM, [fasim.load("a100")], schedules=["standard", "flash2"]))
    assert "flash2 on a100-sxm4-80gb, tile 128x128: bytes by tensor\n" in few


def test_the_gpu_is_a_column_only_where_there_are_several():
    one = comparison_text(compare(PROBLEM, [fasim.load("a100")], schedules=["flash2"]))
    assert one.startswith("a100-sxm4-80gb (")
    assert "schedule   gpu" not in one
    both = [fasim.load("a100"), fasim.load("h100")]
    assert "schedule   gpu" in comparison_text(compare(PROBLEM, both, schedules=["flash2"]))
