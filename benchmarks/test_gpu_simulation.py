"""What the GPU simulation costs on kernels of many waves: it must not grow with the waves.

Run with `pytest benchmarks/test_gpu_simulation.py --benchmark-only`.
"""

import pytest

from fasim.simulator.gpu_simulation import simulate
from fasim.simulator.work import BlockClass, KernelWork, LoopRate

NS = 1000
ITERATION = 1024
SMS, BANDWIDTH = 108, 1_750 * 10**9  # of an A100
MOST_EVENTS = 25_000


def rate(*periods):
    return LoopRate(periods, tuple((("tensor", p - p // 3), ("sfu", p // 3)) for p in periods))


ATTENTION = rate(2567 * NS, 3784 * NS)  # FlashAttention-2 forward, head_dim 128, tile 128 × 64


def uniform(waves):
    block = BlockClass(
        "block", (("l2", 900 * NS),), 32_768, ATTENTION, 64 * ITERATION, 65_536,
        (("l2", 500 * NS),), 32_768,
    )  # fmt: skip
    return KernelWork("uniform", (block,), (0,), waves * 2 * SMS, SMS, 2, BANDWIDTH)


def causal(tiles, heads, load_bytes=0):
    """Blocks of 2, 4 … iterations; `load_bytes` for every two of them."""
    classes = tuple(
        BlockClass(
            f"m{tile}", (("l2", 900 * NS),), 32_768, ATTENTION, 2 * tile * ITERATION + 102,
            load_bytes * tile, (("l2", 500 * NS),), 32_768,
        )
        for tile in range(1, tiles + 1)
    )  # fmt: skip
    return KernelWork("causal", classes, tuple(range(tiles)), heads, SMS, 2, BANDWIDTH)


def streaming(blocks):
    block = BlockClass("stream", loop=rate(*(70 * NS * r for r in range(1, 17))), trips=ITERATION)
    return KernelWork("streaming", (block,), (0,), blocks, SMS, 16, BANDWIDTH)


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(uniform(5_000), id="uniform-5000-waves"),
        pytest.param(causal(512, 1024), id="causal-524288-blocks"),
        pytest.param(causal(512, 1024, load_bytes=8_000), id="causal-524288-blocks-loading"),
        pytest.param(streaming(1_000_000), id="streaming-1000000-blocks"),
    ],
)
def test_kernels_of_many_waves(benchmark, work):
    result = benchmark(simulate, work)
    benchmark.extra_info.update(
        events=result.events, simulated_blocks=work.blocks - result.repeated_blocks
    )
    assert result.events < MOST_EVENTS


def test_a_mixed_kernel_that_is_simulated_whole(benchmark):
    """The dearest there are: too short for a skip at a mean cost."""
    work = causal(64, 420, load_bytes=8_000)
    result = benchmark.pedantic(simulate, (work,), rounds=3)
    benchmark.extra_info.update(events=result.events)
    assert result.repetition == "none"
