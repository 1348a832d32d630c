"""`fasim predict`: what one schedule costs on one GPU."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

from fasim.problem import TENSOR_DTYPE, Attention, Scenario
from fasim.readings.footprint import footprint
from fasim.readings.local_memory import local_bytes
from fasim.readings.traffic import KernelTraffic, Level, Traffic, merge, traffic
from fasim.schedules import catalog
from fasim.schedules.plan import Options, Plan, Refused
from fasim.schedules.record import cached_record
from fasim.schedules.residency import block_use, residency
from fasim.simulator.simulate import SimulatedKernel, Simulation, Slower, simulate
from fasim.verbs.host_transfer import host_transfer
from fasim.verbs.intensity import intensity
from fasim.verbs.prediction import KernelPrediction, Prediction
from fasim.verbs.trust import trust

if TYPE_CHECKING:
    from fasim.hardware import Gpu, Profile


def predict(
    problem: Attention,
    profile: Profile,
    scenario: Scenario | None = None,
    *,
    schedule: str | None = None,
    implementation: str | None = None,
    options: Options | None = None,
    repeat: bool = True,
    timeline: bool = False,
) -> Prediction:
    """Bytes at every level, time, what bounds it, and memory of `problem` on a GPU.

    Args:
        schedule: one of `fasim schedules`; the fastest that the GPU can run if neither a
            schedule nor an implementation is given.
        implementation: a named kernel family; it decides the schedule.
        options: tile, splits of the keys and so on, instead of the schedule's own.
        repeat: let repeated waves stand for those like them; off, every block is simulated.
        timeline: keep the spans of the simulated blocks.

    Raises:
        Refused: the schedule cannot run this problem on this GPU; the message is one line.
    """
    scenario = scenario or Scenario()
    if schedule is None and implementation is None:
        return _fastest(problem, profile, scenario, options, repeat=repeat, timeline=timeline)
    plans = catalog.plans(problem, profile.gpu, schedule, implementation, options)
    return _best(problem, profile, scenario, plans, repeat=repeat, timeline=timeline)


def _fastest(
    problem: Attention,
    profile: Profile,
    scenario: Scenario,
    options: Options | None,
    *,
    repeat: bool,
    timeline: bool,
) -> Prediction:
    """The schedule with the least time; of those that do not fit memory, the smallest."""
    found: list[Plan] = []
    refused: list[Refused] = []
    for name in catalog.usual_schedules(problem):
        try:
            found.append(catalog.plan(problem, profile.gpu, name, None, options))
        except Refused as refusal:
            refused.append(refusal)
    if not found:
        reasons: dict[str, list[str]] = {}
        for each in refused:
            reasons.setdefault(each.reason, []).append(each.name)
        said = [f"{reason} ({', '.join(names)})" for reason, names in reasons.items()]
        raise Refused("no schedule runs this", "; ".join(said))
    return _best(problem, profile, scenario, found, repeat=repeat, timeline=timeline)


def _best(
    problem: Attention,
    profile: Profile,
    scenario: Scenario,
    plans: Sequence[Plan],
    *,
    repeat: bool,
    timeline: bool,
) -> Prediction:
    """The fastest; of those that do not fit memory, the smallest."""
    best = None
    for planned in plans:
        best = faster(problem, profile, scenario, planned, best, repeat=repeat, timeline=timeline)
    assert best is not None  # a catalogue entry plans one kernel chain or more
    return best


def faster(
    problem: Attention,
    profile: Profile,
    scenario: Scenario,
    planned: Plan,
    best: Prediction | None,
    *,
    repeat: bool = True,
    timeline: bool = False,
) -> Prediction:
    """What `planned` costs, or `best` if that is no slower.

    A plan that a bound shows to be slower is not simulated. Of plans that do not fit device
    memory, the smaller is the faster.
    """
    at_most_s = inf if best is None or best.time_s is None else best.time_s
    try:
        found = predict_plan(
            problem,
            profile,
            scenario,
            planned,
            repeat=repeat,
            timeline=timeline,
            at_most_s=at_most_s,
        )
    except Slower:
        assert best is not None  # nothing is slower than no limit
        return best
    return found if best is None or _rank(found) < _rank(best) else best


def _rank(prediction: Prediction) -> tuple[bool, float, int]:
    time_s = prediction.time_s
    return time_s is None, time_s or 0.0, prediction.footprint.peak_bytes


def predict_plan(
    problem: Attention,
    profile: Profile,
    scenario: Scenario,
    planned: Plan,
    *,
    repeat: bool = True,
    timeline: bool = False,
    at_most_s: float = inf,
) -> Prediction:
    """What a plan's kernels cost, whoever has planned them; the rest is as in `predict`.

    Raises:
        Slower: it is sure to take longer than `at_most_s`.
    """
    gpu = profile.gpu
    exact = traffic(planned.kernels)
    memory = footprint(planned.kernels)
    fits = memory.peak_bytes <= gpu.dram.capacity_bytes
    host = host_transfer(planned.kernels, gpu, scenario.host)
    host_s = host.time_s if host else 0.0
    simulation = None
    if fits:
        simulation = simulate(
            planned,
            exact,
            gpu,
            scenario,
            repeat=repeat,
            timeline=timeline,
            at_most_s=at_most_s - host_s,
        )
    kernels = _kernels(planned, exact, gpu, simulation)
    time_s = None if simulation is None else simulation.time_s + host_s
    return Prediction(
        gpu=profile.resolved_name,
        gpu_title=gpu.title,
        problem=problem,
        scenario=scenario,
        schedule=planned.schedule,
        implementation=planned.implementation,
        tile=planned.tile,
        flops=exact.flops,
        traffic=_chain_levels(exact, simulation),
        footprint=memory,
        capacity_bytes=gpu.dram.capacity_bytes,
        fits=fits,
        kernels=kernels,
        assumptions=(*profile.notes, *planned.assumptions, *_assumptions(kernels, simulation)),
        intensity=intensity(
            planned.kernels, exact.flops, exact.compulsory, TENSOR_DTYPE[problem.dtype], gpu
        ),
        changes=tuple(profile.changes.lines()) if profile.changes else (),
        time_s=time_s,
        roofline_s=None if simulation is None else simulation.roofline_s + host_s,
        stalls_s={} if simulation is None else simulation.stalls_s | _host_stall(host_s),
        host=host,
        hardware=gpu,
        simulation=simulation,
        # Nobody measured transfers with the kernels.
        trust=trust(problem, profile, None if host else planned.implementation, time_s),
        plan=planned,
        exact=exact,
    )


def _host_stall(host_s: float) -> dict[str, float]:
    return {"host": host_s} if host_s else {}


def _chain_levels(exact: Traffic, simulation: Simulation | None) -> dict[str, Level]:
    levels = {"compulsory": exact.compulsory, "global": exact.global_}
    if simulation is not None:
        levels["l2"] = merge(kernel.memory.l2 for kernel in simulation.kernels)
        levels["dram"] = merge(kernel.memory.dram for kernel in simulation.kernels)
    return levels


def _kernels(
    planned: Plan, exact: Traffic, gpu: Gpu, simulation: Simulation | None
) -> tuple[KernelPrediction, ...]:
    simulated: Sequence[SimulatedKernel | None] = (
        [None] * len(planned.kernels) if simulation is None else simulation.kernels
    )
    return tuple(
        _kernel(planned, index, kernel_traffic, gpu, kernel)
        for index, (kernel_traffic, kernel) in enumerate(zip(exact.kernels, simulated, strict=True))
    )


def _kernel(
    planned: Plan,
    index: int,
    exact: KernelTraffic,
    gpu: Gpu,
    simulated: SimulatedKernel | None,
) -> KernelPrediction:
    kernel = planned.kernels[index]
    record = cached_record(kernel)
    use = block_use(record)
    occupancy = residency(use, gpu)
    levels = {"compulsory": exact.compulsory, "global": exact.global_}
    if simulated is not None:
        levels |= {"l2": simulated.memory.l2, "dram": simulated.memory.dram}
    return KernelPrediction(
        name=kernel.name,
        grid=kernel.grid_shape,
        blocks_per_sm=occupancy.blocks_per_sm,
        limiter=occupancy.limiter,
        waves=kernel.blocks / (occupancy.blocks_per_sm * gpu.sm_count),
        warps=kernel.mapping.warps,
        shared_memory_bytes=use.shared_memory_bytes,
        registers_per_thread=use.registers_per_thread,
        spilled_registers=use.spilled_registers,
        local_bytes=local_bytes(record),
        traffic=levels,
        repeated_waves=None if simulated is None else simulated.result.repeated_waves,
        time_s=None if simulated is None else simulated.time_s,
        roofline_s=None if simulated is None else simulated.roofline_s,
        clock_hz=None if simulated is None else simulated.lowered.clock_hz,
        stalls_s={} if simulated is None else simulated.result.time_by_cause_s,
    )


def _assumptions(kernels: tuple[KernelPrediction, ...], simulation: Simulation | None) -> list[str]:
    """What a reader should know of the numbers, in sentences."""
    if simulation is None:
        return ["device memory does not hold the chain: no time, L2 or DRAM bytes"]
    said = ["bytes at the levels l2 and dram are modelled; compulsory and global are exact"]
    for kernel, simulated in zip(kernels, simulation.kernels, strict=True):
        in_loop = simulated.use.spilled_in_loop
        if kernel.spilled_registers:
            where = f", {in_loop} of them in every iteration" if in_loop else " once a block"
            said.append(
                f"{kernel.name}: {kernel.spilled_registers} registers a thread over the limit "
                f"are predicted to spill{where}"
            )
        if simulated.result.repetition == "slope":
            said.append(
                f"{kernel.name}: waves of mixed length were repeated at their mean cost "
                "(within 0.3 % of simulating every block)"
            )
    return said
