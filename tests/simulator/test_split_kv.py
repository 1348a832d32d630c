"""Decode in time: K and V from DRAM once, splits fill the GPU, pages and combining cost."""

from dataclasses import replace

import pytest

from fasim.hardware import Gpu, load
from fasim.problem import Attention, Scenario
from fasim.readings.traffic import total, traffic
from fasim.schedules import catalog, split_kv
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Options, Plan
from fasim.schedules.record import record
from fasim.schedules.tiling import Tiling
from fasim.simulator.lowering import main_loop
from fasim.simulator.simulate import SimulatedKernel, Simulation, simulate
from fasim.simulator.trips import Trips, grid_trips

GQA = Attention(4, 32, 1, 8192, 128, 8)


def simulated(plan: Plan, gpu: Gpu, l2: str = "warm") -> Simulation:
    return simulate(plan, traffic(plan.kernels), gpu, Scenario(l2=l2))  # type: ignore[arg-type]


def run(gpu: Gpu, problem: Attention, schedule: str, **options: object) -> Simulation:
    taken = Options(**options)  # type: ignore[arg-type]
    return simulated(catalog.plan(problem, gpu, schedule, options=taken), gpu)


def read_bytes(kernel: SimulatedKernel, level: str) -> int:
    access = getattr(kernel.memory, level)
    return access["K"].read_bytes + access["V"].read_bytes


@pytest.mark.parametrize("schedule", ["decode", "split_kv"])
def test_the_cache_comes_from_dram_once_packed_or_not(a100: Gpu, schedule: str) -> None:
    cache = 2 * 4 * 8 * 8192 * 128 * 2  # 128 MiB: it does not fit L2
    packed = run(a100, GQA, schedule, pack_gqa=True).kernels[0]
    apart = run(a100, GQA, schedule, pack_gqa=False).kernels[0]
    assert read_bytes(packed, "l2") == cache
    assert read_bytes(apart, "l2") == 4 * cache
    for kernel in (packed, apart):
        left = min(kernel.memory.resident_bytes, cache // 16)  # by the call before
        assert read_bytes(kernel, "dram") == pytest.approx(cache - left, rel=0.01)


@pytest.mark.parametrize("gpu", ["a100", "h100", "l40s", "rtx4090"])
@pytest.mark.parametrize("seqlen_k", [8192, 32768])
def test_splitting_is_faster_for_long_keys_and_few_heads(gpu: str, seqlen_k: int) -> None:
    machine = load(gpu).gpu
    for batch in (1, machine.sm_count // 2 // 8):
        problem = replace(GQA, batch=batch, seqlen_k=seqlen_k)
        split, whole = (run(machine, problem, name) for name in ("split_kv", "decode"))
        assert split.time_s < whole.time_s


@pytest.mark.parametrize("page_size", [None, 16])
def test_no_time_beats_the_roofline_and_the_stalls_sum_to_it(
    a100: Gpu, page_size: int | None
) -> None:
    for problem in (GQA, replace(GQA, seqlen_q=5, causal=True), replace(GQA, seqlen_k=100)):
        for schedule in ("decode", "split_kv"):
            simulation = run(a100, problem, schedule, page_size=page_size)
            for kernel in simulation.kernels:
                assert kernel.time_s >= kernel.roofline_s
            assert sum(simulation.stalls_s.values()) == pytest.approx(simulation.time_s)


def test_more_keys_and_a_cold_cache_are_no_faster(a100: Gpu) -> None:
    times = [
        run(a100, replace(GQA, seqlen_k=keys), "decode").time_s for keys in range(1024, 9217, 1024)
    ]
    assert times == sorted(times)
    plan = catalog.plan(replace(GQA, seqlen_k=512), a100, "split_kv")
    assert simulated(plan, a100, "cold").time_s > simulated(plan, a100, "warm").time_s


def test_the_paged_loop_is_within_11_percent_of_the_compiled_one(a100: Gpu) -> None:
    """4884 and 6413 cycles for one and two blocks: FlashAttention-2's split kernel, d = 128."""
    problem = Attention(1, 8, 1, 8192, 128)  # in L2, as the machine code was timed
    alone, options = replace(problem, heads=1, kv_heads=1), Options(page_size=256, writes_kv=True)
    plan = catalog.plan(alone, a100, implementation="flash-attn-2", options=options)
    first = simulated(plan, a100).kernels[1]  # behind the kernel that writes the cache
    assert first.lowered.rates[0].cycles == pytest.approx(4884, rel=0.11)
    assert first.lowered.rates[1].cycles == pytest.approx(6413, rel=0.10)


def test_a_page_table_costs_two_latencies_before_the_first_tile(a100: Gpu) -> None:
    problem = Attention(1, 8, 1, 128, 128)
    plain, paged = (
        run(a100, problem, "decode", page_size=size).kernels[0].lowered for size in (None, 16)
    )

    def prologue_ticks(work: object) -> int:
        return sum(ticks for _, ticks in work.work.classes[0].prologue)  # type: ignore[attr-defined]

    cycles = (prologue_ticks(paged) - prologue_ticks(plain)) / 1e12 * paged.clock_hz
    assert cycles == pytest.approx(2 * a100.l2.far_latency_cycles, rel=0.01)


def test_combining_takes_a_latency_a_split(a100: Gpu) -> None:
    problem = Attention(1, 8, 1, 8192, 128)
    few, many = (run(a100, problem, "split_kv", num_splits=n).kernels[1] for n in (4, 20))
    assert few.record.kernel.name == "combine"
    assert total(few.memory.dram).read_bytes == 0  # written a moment ago
    cycles = (many.time_s - few.time_s) * many.lowered.clock_hz
    latency = (a100.l2.latency_cycles + a100.l2.far_latency_cycles) / 2
    assert cycles == pytest.approx(16 * (latency + 40), rel=0.01)


def served(gpu: Gpu, problem: Attention) -> dict[str, SimulatedKernel]:
    options = Options(page_size=16, writes_kv=True)
    plan = catalog.plan(problem, gpu, implementation="flash-attn-2", options=options)
    return {kernel.record.kernel.name: kernel for kernel in simulated(plan, gpu).kernels}


def prologue_cycles(kernel: SimulatedKernel, cause: str) -> float:
    charged = sum(t for named, t in kernel.lowered.work.classes[0].prologue if named == cause)
    return charged / 1e12 * kernel.lowered.clock_hz


@pytest.mark.parametrize(
    ("problem", "start"),
    [
        (Attention(1, 16, 1, 128, 128, 8), 909),
        (Attention(1, 16, 1, 256, 128, 8), 1231),  # two splits
        (Attention(1, 16, 256, 256, 128, 8, causal=True), 936),
    ],
)
def test_a_servers_block_starts_as_compiled_and_looks_up_three_tables(
    a100: Gpu, problem: Attention, start: int
) -> None:
    """Where its sequence begins, how long it is, the page; then the first tiles."""
    kernels = served(a100, problem)
    first = kernels.get("split_kv", kernels.get("decode"))
    assert first is not None
    assert prologue_cycles(first, "launch") == pytest.approx(start, rel=1e-3)
    tiles = (64 + 128) * 128 * 2  # Q and the first K
    brought = tiles / a100.l2.read_bytes_per_clock_per_sm  # the grids leave SMs empty
    waited = 4 * a100.l2.far_latency_cycles
    assert prologue_cycles(first, "l2") == pytest.approx(waited + brought, rel=1e-3)


def test_combining_starts_as_compiled_behind_one_load(a100: Gpu) -> None:
    """The weights of all splits are loaded at once; where LSE is not padded the way is longer."""
    combine = served(a100, Attention(1, 16, 1, 256, 128, 8))["combine"]
    latency = (a100.l2.latency_cycles + a100.l2.far_latency_cycles) / 2
    assert prologue_cycles(combine, "l2") == pytest.approx(3907 + latency, rel=1e-3)
    plan = catalog.plan(Attention(1, 16, 1, 256, 128, 8), a100, implementation="flash-attn-2")
    padded = simulated(plan, a100).kernels[-1]
    assert padded.record.kernel.name == "combine"
    assert prologue_cycles(padded, "l2") == pytest.approx(2429 + latency, rel=1e-3)


def test_a_small_strided_copy_takes_its_instructions_and_a_latency_an_element(a100: Gpu) -> None:
    copy = served(a100, Attention(2, 16, 1, 256, 128, 8))["copy_O_rows"]
    assert total(copy.memory.dram).total_bytes == 0  # so no time for DRAM to run
    latency = (a100.l2.latency_cycles + a100.l2.far_latency_cycles) / 2
    alone_s = copy.time_s - a100.launch.stream_s
    assert alone_s * copy.lowered.clock_hz == pytest.approx(800 + 4 * latency, rel=0.01)


def test_splits_of_unequal_length_are_simulated_as_they_are(a100: Gpu) -> None:
    """Five tiles in four splits: two, two, one, none."""
    problem = Attention(1, 8, 1, 5 * 128, 128)
    work = run(a100, problem, "split_kv", num_splits=4).kernels[0].lowered.work
    assert [work.classes[kind].trips // 1024 for kind in work.pattern] == [2, 2, 1, 0]
    assert work.repeats == 8


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), [(70, 300), (300, 300), (200, 90)])
def test_splits_of_a_causal_problem_mask_the_tiles_on_the_diagonal(
    packed: bool, seqlen_q: int, seqlen_k: int
) -> None:
    problem = Attention(1, 6, seqlen_q, seqlen_k, 64, 2, causal=True)
    splits, tile_m, tile_n = 3, 32, 48
    tiling = Tiling(tile_m, tile_n, num_splits=splits, pack_gqa=packed)
    recorded = record(split_kv.kernels(problem, tiling, Mapping(2))[0])
    group = 3 if packed else 1
    tiles = -(-seqlen_k // tile_n)
    part = -(-tiles // splits)
    expected = []
    for split in range(splits):
        for start in range(0, seqlen_q * group, tile_m):
            rows = range(start, min(start + tile_m, seqlen_q * group))
            plain = masked = 0
            for tile in range(split * part, min((split + 1) * part, tiles)):
                keys = range(tile * tile_n, min((tile + 1) * tile_n, seqlen_k))
                seen = [key - row // group <= seqlen_k - seqlen_q for row in rows for key in keys]
                plain += all(seen)
                masked += any(seen) and not all(seen)
            expected.append(Trips(plain, masked))
    assert grid_trips(recorded, main_loop(recorded)).pattern == tuple(expected)
