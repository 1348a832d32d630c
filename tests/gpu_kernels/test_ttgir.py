"""The compiler's IR: buffers that live together, instructions that its products need."""

from __future__ import annotations

import pytest

from gpu_kernels.compile.buffers import buffers_of, most_alive
from gpu_kernels.compile.products import tensor_instructions
from gpu_kernels.compile.regions import loop_lines
from tests.gpu_kernels.listings import TTGIR

MMA = "tensor<128x32xf32, #mma>"
WGMMA = TTGIR.replace("tt.dot", "ttng.warp_group_dot").replace(MMA, "tensor<128x32xf32, #mma1>")


def test_buffers_have_a_name_a_count_and_a_tile() -> None:
    found = [(each.name, each.count, each.tile, each.bytes) for each in buffers_of(TTGIR)]
    assert found == [
        ("q", 1, (128, 64), 16384),
        ("k", 3, (32, 64), 3 * 4096),
        ("x", 1, (32, 64), 4096),
        ("k", 2, (32, 64), 2 * 4096),
        ("x", 1, (32, 64), 4096),
    ]


def test_buffers_of_one_loop_do_not_live_in_the_other() -> None:
    alive = most_alive(buffers_of(TTGIR))
    assert [(each.name, each.count) for each in alive] == [("q", 1), ("k", 3), ("x", 1)]
    assert sum(each.bytes for each in alive) == 16384 + 3 * 4096 + 4096


def test_what_a_loop_uses_lives_until_its_end() -> None:
    query = buffers_of(TTGIR)[0]
    (_, _), (_, last) = sorted(loop_lines(TTGIR.splitlines()))
    assert query.last == last


@pytest.mark.parametrize(
    ("ttgir", "instructions"),
    [
        (TTGIR, (128 // 16 // 4) * (32 // 8) * (64 // 16)),
        # Half the k-steps where elements are of one byte.
        (TTGIR.replace("xf16", "xf8"), (128 // 16 // 4) * (32 // 8) * (64 // 32)),
        # FP32 lanes multiply: no tensor cores.
        (TTGIR.replace(MMA, "tensor<128x32xf32, #blocked>"), 0),
        (WGMMA, (128 // 16 // 4) * 1 * (64 // 16)),
        (
            TTGIR.replace("%s = tt.dot %q", "ttng.tc_gen5_mma %q").replace(
                MMA, "!ttg.memdesc<128x32xf32, #tmem>"
            ),
            64 // 16,
        ),
    ],
)
def test_instructions_of_an_iteration(ttgir: str, instructions: int) -> None:
    assert tensor_instructions(ttgir) == instructions
