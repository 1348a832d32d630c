"""Runs of elementwise operations: what is fused, what is interleaved, what is combined."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from fasim.hardware.gpu import WARP
from fasim.schedules.record import Op
from fasim.simulator.lowering.body import LoopBody
from fasim.simulator.lowering.emitter import Emitter
from fasim.simulator.lowering.exchange import SHUFFLE_BYTES, combine_quad, exchange_rows
from fasim.simulator.lowering.instructions import REDUCTIONS, SFU_OPS, Arithmetic

if TYPE_CHECKING:
    from fasim.hardware import Gpu

# Groups a run is cut into at most. Items then stand for several instructions, and a stream of a
# few hundred items is simulated in milliseconds.
RUN_GROUPS = 24


def elements_in_flight(gpu: Gpu) -> int:
    """Elements of a fused run a warp has in flight: those that the SFU's latency covers.

    By Little's law, latency over the cycles of one. Further ahead, in-order exp2 would hold up
    the additions behind it; nearer, each addition would wait for its own exp2. A compiler that
    knows latencies orders instructions so.
    """
    each = WARP * gpu.sm.schedulers / gpu.sfu.lanes
    return max(1, ceil(gpu.sfu.latency_cycles / each))


class Elementwise:
    """Emits elementwise operations and row reductions, fused into runs.

    A run is operations over the same elements, done a few elements at a time.
    """

    def __init__(self, body: LoopBody, emitter: Emitter) -> None:
        self.body, self.emitter = body, emitter
        self._fetched: set[int] = set()  # buffered loads that are in registers
        self._read: dict[tuple[int, int], int] = {}  # operation and group → what is read back

    def emit(self, pending: list[Op]) -> None:
        """Emits operations that follow each other, each run as long as it can be.

        A run is cut where an operation takes a row result of the run; operations over other
        elements that the run does not need come after it.
        """
        while pending:
            run: list[Op] = []
            left: list[Op] = []
            for op in pending:
                later = {other.index for other in left}
                reduced = {other.index for other in run if other.kind in REDUCTIONS}
                fits = not run or self._like(op, run[0])
                if fits and not set(op.inputs) & (later | reduced):
                    run.append(op)
                else:
                    left.append(op)
            beside = self._beside(run, left)
            self._emit_run(run, beside)
            pending = [op for op in left if op not in beside]

    def _like(self, op: Op, other: Op) -> bool:
        """Whether two operations are over the same elements and wait for the same product."""
        awaited = self.body.awaited_product(op) is self.body.awaited_product(other)
        return awaited and self.body.wide(op) == self.body.wide(other)

    def _beside(self, run: list[Op], left: list[Op]) -> list[Op]:
        """Tile-wide operations to issue in the shadow of a run that the SFU holds up.

        They wait for nothing that is still to come: O's rescaling beside the exponentials.
        """
        if self.body.wide(run[0])[1] == 1 or not any(op.kind in SFU_OPS for op in run):
            return []
        coming = {op.index for op in run + left}
        return [
            op
            for op in left
            if self.body.wide(op)[1] > 1
            and op.kind not in SFU_OPS
            and not coming & set(op.inputs)
            and self.body.awaited_product(op) is None
        ]

    def _emit_run(self, run: list[Op], beside: list[Op]) -> None:
        elements = self.body.per_thread(self.body.wide(run[0]))
        groups = int(min(RUN_GROUPS, max(1.0, elements // elements_in_flight(self.body.gpu))))
        parts: dict[int, list[int]] = {op.index: [] for op in run + beside}
        for op in run + beside:
            self._fetch(op)
        # What follows the first SFU operation waits a group: its exp2 is done by then.
        first_sfu = next((i for i, op in enumerate(run) if op.kind in SFU_OPS), len(run))
        at_once, behind = run, list[Op]()
        if groups > 1:
            at_once, behind = run[: first_sfu + 1], run[first_sfu + 1 :]
        for op in run:
            self._read_back(op, groups)
        for group in range(groups + 1):
            if group < groups:
                for op in at_once + beside:
                    self._emit_group(op, group, groups, parts)
            if group > 0:
                for op in at_once if groups > 1 else ():
                    self._square(op, group - 1, parts)
                for op in behind:
                    self._emit_group(op, group - 1, groups, parts)
        for op in run + beside:
            if self._is_free(op):
                self.emitter.made_free(op)
            else:
                self.emitter.made(op.index, parts[op.index])
            if op.kind in REDUCTIONS:
                self._combine_rows(op)

    def _fetch(self, op: Op) -> None:
        """Reads what an operation takes from shared memory into registers, once."""
        for load in self.body.sources(op):
            if self.body.is_buffered(load) and load.index not in self._fetched:
                moved, count = self.body.fetch(load)
                needs = self.emitter.after((load.index,))
                fetched = self.emitter.shared_memory(moved, count, needs=needs, name="fetch")
                self.emitter.made(load.index, [fetched])
                self._fetched.add(load.index)

    def _emit_group(self, op: Op, group: int, groups: int, parts: dict[int, list[int]]) -> None:
        """One operation on one group of a run's elements."""
        if self._is_free(op):
            return
        pipe, per_element = self.body.cost(op)
        total = max(1, round(self.body.per_thread(self.body.wide(op)) * per_element))
        count = total * (group + 1) // groups - total * group // groups
        if count == 0:
            return
        needs = self._needs(op, group, parts)
        if (op.index, group) in self._read:  # it was rounded to an operand
            read = self._read[op.index, group]
            needs = [*needs, self.emitter.arithmetic("fp32", count, needs=[read], name="widen")]
        if self.body.is_guarded(op):
            needs = self._halve(count, needs)
        asynchronous = pipe == "sfu" and count > 1
        item = self.emitter.arithmetic(
            pipe, count, needs=needs, asynchronous=asynchronous, name=op.kind
        )
        parts[op.index].append(item)
        for index in op.inputs:
            earlier = self.body.carried.get(index)
            if earlier and self.body.asynchronous(earlier) and not self.body.is_delayed(earlier):
                self.emitter.require_earlier(item, earlier.index)
        if groups == 1:
            self._square(op, group, parts)

    def _read_back(self, op: Op, groups: int) -> None:
        """Loads what other lanes have stored as an operand, an element at a time, ahead of use."""
        for source in self.body.sources(op):
            if not self.body.lies_elsewhere(source, op):
                continue
            total = round(self.body.per_thread(self.body.wide(op)))
            needs = self.emitter.after((source.index,))
            for group in range(groups):
                count = total * (group + 1) // groups - total * group // groups
                self._read[op.index, group] = self.emitter.shared_memory(
                    count * SHUFFLE_BYTES, count, needs=needs, name="read back"
                )

    def _halve(self, count: int, needs: list[int]) -> list[int]:
        """What goes before an exp2 that keeps denormals: a comparison, a predicated product."""
        compare = self.emitter.arithmetic("alu", count, needs=needs, name="compare")
        return [self.emitter.arithmetic("fp32", count, needs=[*needs, compare], name="halve")]

    def _square(self, op: Op, group: int, parts: dict[int, list[int]]) -> None:
        """What goes behind it: a predicated product, in whose place the exponential stands."""
        made = parts[op.index]
        if self.body.is_guarded(op) and group < len(made):
            count = self.emitter.items[made[group]].count
            made[group] = self.emitter.arithmetic("fp32", count, needs=[made[group]], name="square")

    def _needs(self, op: Op, group: int, parts: dict[int, list[int]]) -> list[int]:
        """What a group waits for: the same group of the run's own values, others whole."""
        awaited = self.body.awaited_product(op)
        needs = [] if awaited is None else self.emitter.after((awaited.index,))
        for source in self.body.sources(op):
            made = parts.get(source.index)
            if made is None:
                needs += self.emitter.after((source.index,))
            elif made:
                needs.append(made[min(group, len(made) - 1)])
            else:  # no instructions of its own
                needs += self._needs(source, group, parts)
        return needs

    def _is_free(self, op: Op) -> bool:
        return self.body.cost(op)[1] == 0

    def _combine_rows(self, op: Op) -> None:
        """A row's partial results are combined across the quad, and the warps, that share it.

        A sum that is only carried on needs none until the end, unless the mapping says otherwise.
        """
        waits = not self.body.mapping.sums_every_step
        if waits and op.kind == "row_sum" and self._only_carried(op):
            return
        values = self.body.per_thread(op.shape)
        pipe: Arithmetic = "alu" if op.kind == "row_max" else "fp32"
        last = self.emitter.after((op.index,))
        last = combine_quad(self.emitter, values, pipe, last, op.kind)
        warps = self.body.warps_across(self.body.sources(op)[0])
        if warps > 1:
            last = exchange_rows(self.emitter, values, warps, pipe, last)
        self.emitter.made(op.index, last)

    def _only_carried(self, op: Op) -> bool:
        return all(user.kind == "add" and not self.body.used(user) for user in self.body.used(op))
