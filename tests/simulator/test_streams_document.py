"""The table of docs/streams.md: T(r) of lowered and of compiled main loops."""

from pathlib import Path

import pytest

from fasim.hardware import load
from fasim.problem import Attention
from fasim.schedules.catalog import plan
from fasim.schedules.plan import Options
from fasim.schedules.record import record
from fasim.schedules.residency import block_use, residency
from fasim.simulator.compiled_stream import compiled_stream
from fasim.simulator.loop_rates import stream_rate
from fasim.simulator.lowering import lower, main_loop

DOCUMENT = Path(__file__).parents[2] / "docs" / "streams.md"
GPUS = ("a100", "rtx4090", "h100")
RESIDENTS = (1, 2)
# Where the two differ by more than 10 %, at the number of blocks that an SM holds.
KNOWN = {("a100", "flash2_forward", 64), ("h100", "query_pass", 64)}


def rates(gpu_name, head_dim):
    """Of each main loop: kernel, blocks an SM holds, T(r) lowered and compiled for r = 1, 2."""
    gpu = load(gpu_name).gpu
    problem = Attention(1, 1, 4096, 4096, head_dim, direction="both")
    planned = plan(problem, gpu, None, "gpu-kernels", Options(stream="compiled"))
    for kernel in planned.kernels:
        loop = planned.compiled_loop(kernel)
        if loop is None:
            continue
        recorded = record(kernel)
        lowered = lower(recorded, gpu, main_loop(recorded))
        compiled = compiled_stream(loop, gpu, lowered.bytes_per_iteration)
        held = residency(block_use(recorded), gpu).blocks_per_sm
        pairs = [
            (
                stream_rate(lowered.plain, residents, gpu).cycles,
                stream_rate((compiled,), residents, gpu).cycles,
            )
            for residents in RESIDENTS
        ]
        yield kernel.name, held, pairs


def rows(gpu_name, head_dim):
    """The table's rows."""
    for kernel, held, pairs in rates(gpu_name, head_dim):
        cells = [f"{low:.0f} / {made:.0f} / {made / low - 1:+.1%}" for low, made in pairs]
        yield f"| {gpu_name} | {kernel} | {head_dim} | {held} | {' | '.join(cells)} |"


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("gpu_name", GPUS)
def test_the_table_is_what_the_streams_take(gpu_name, head_dim):
    text = DOCUMENT.read_text(encoding="utf-8")
    for row in rows(gpu_name, head_dim):
        assert row in text


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("gpu_name", GPUS)
def test_lowered_and_compiled_agree_within_10_percent(gpu_name, head_dim):
    """At the number of blocks that an SM holds; what does not is known, and no more than that."""
    for kernel, held, pairs in rates(gpu_name, head_dim):
        lowered, compiled = pairs[held - 1]
        apart = abs(compiled / lowered - 1) > 0.1
        assert apart == ((gpu_name, kernel, head_dim) in KNOWN), kernel


if __name__ == "__main__":  # the rows, to be pasted into the document
    for name in GPUS:
        for size in (64, 128):
            print(*rows(name, size), sep="\n")
