"""Lowering: one iteration of a recorded loop under a mapping, as the stream one warp issues.

No schedule is named here. What it looks at: the kinds of operations, the shapes of their
tiles, what feeds what (carried values included), whether an operand was loaded or computed,
and the mapping's answers by matmul name. The rules are ordinary compiler ideas; each is
stated where it is applied.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING

from fasim.problem import DTYPE_BYTES, TENSOR_DTYPE
from fasim.schedules.record import Op, Record
from fasim.simulator.stream import Item, Stream

if TYPE_CHECKING:
    from fasim.hardware import Gpu

WARP = 32
COPY_BYTES = 16  # what one thread moves by one copy instruction (cp.async, 128-bit load)
FRAGMENT_K_BYTES = 32  # bytes of the contracted side one mma instruction takes
LDMATRIX_BYTES = 512  # ldmatrix.x4
# Elements of a fused run a warp has in flight: further ahead, in-order exp2 holds up the
# additions behind it; nearer, each addition waits for its own exp2.
INTERLEAVE = 2
# Groups a run is cut into at most. Items then stand for several instructions.
RUN_GROUPS = 24
ADDRESS_INSTRUCTIONS = 2  # a 64-bit address is advanced by an add and an add with carry
LOOP_INSTRUCTIONS = 8  # counter, compare, branch, buffer indices
MASK_INSTRUCTIONS = 2  # compare the column with the row's limit, select
WGMMA_WAIT_CYCLES = 60  # from the last wgmma's completion until a warp has its result

ELEMENTWISE = ("add", "sub", "mul", "maximum", "exp2", "log2", "inverse", "cast", "mask", "finite")
REDUCTIONS = ("row_max", "row_sum")
SFU_OPS = ("exp2", "log2", "inverse")


@dataclass(frozen=True, slots=True)
class LoopStream:
    """A lowered loop: its stream without and with the mask's instructions.

    Attributes:
        bytes_per_iteration: what a block's loads bring through the SM's L2 port.
    """

    plain: Stream
    masked: Stream
    bytes_per_iteration: int


def main_loop(record: Record) -> tuple[int, ...]:
    """The loop in which a program multiplies most: the path of its largest matmuls."""
    work: dict[tuple[int, ...], int] = {}
    for op in record.once():
        if op.kind == "matmul" and op.path:
            work[op.path] = work.get(op.path, 0) + op.elements * op.contraction
    return max(work, key=lambda path: work[path]) if work else ()


def lower(record: Record, gpu: Gpu, path: tuple[int, ...]) -> LoopStream:
    """The stream of the loop at `path`, for one warp of the block."""
    plain = _Lowering(record, gpu, path, masked=False)
    masked = _Lowering(record, gpu, path, masked=True)
    return LoopStream(plain.stream(), masked.stream(), plain.loaded_bytes)


class _Lowering:
    """Emits the items of one iteration, in program order."""

    def __init__(self, record: Record, gpu: Gpu, path: tuple[int, ...], masked: bool) -> None:
        self.record, self.gpu, self.masked = record, gpu, masked
        self.mapping = record.kernel.mapping
        self.warps = self.mapping.warps
        self.element_bytes = DTYPE_BYTES[record.kernel.problem.dtype]
        # The second recorded pass: it shows what the loop carries.
        self.body = [op for op in record.ops if op.path == path and op.iteration == 1]
        self.indices = {op.index for op in self.body}
        self.items: list[Item] = []
        self.ready: dict[int, list[int]] = {}  # op → items after which its parts are visible
        self.copies: dict[str, int] = {}  # tensor → item of its copy
        self.waits: dict[str, int] = {}  # tensor → item that waits for it
        self.arriving: list[str] = []  # tensors of the 512-byte pieces on their way
        self.loaded_bytes = 0
        self.fused = self._multiply_adds()
        self.users: dict[int, list[Op]] = {}
        for op in self.body:
            for index in op.inputs:
                self.users.setdefault(index, []).append(op)

    def stream(self) -> Stream:
        points = self._wait_points()
        pending: list[Op] = []  # elementwise operations not yet emitted
        for position, op in enumerate(self.body):
            fusible = op.kind in ELEMENTWISE or op.kind in REDUCTIONS
            if position in points or not fusible:
                self._runs(pending)
                pending = []
            if position in points:
                self._arrive(position, points)
            if fusible:
                pending.append(op)
            elif op.kind == "matmul":
                self._matmul(op)
            elif op.kind == "store":
                self._store(op)
            elif op.kind == "load" and not self._buffered(op):
                self._plain_load(op)
        self._runs(pending)
        self._arrivals(len(self.arriving))
        self._emit("alu", LOOP_INSTRUCTIONS, name="loop")
        self._bind_copies()
        per_scheduler = max(1, ceil(self.warps / self.gpu.sm.schedulers))
        return Stream(tuple(self.items), per_scheduler)

    # Emission.

    def _emit(self, pipe: str, count: float, **fields: object) -> int:
        """Appends `count` instructions on an arithmetic pipe; returns the item's index."""
        gpu, instructions = self.gpu, max(1, round(count))
        lanes = {"fp32": gpu.fp32, "alu": gpu.alu, "sfu": gpu.sfu}[pipe]
        cycles = max(1, round(instructions * WARP * gpu.sm.schedulers / lanes.lanes))
        item = Item(pipe, instructions, cycles, lanes.latency_cycles, **fields)  # type: ignore[arg-type]
        self.items.append(item)
        return len(self.items) - 1

    def _shared(self, moved_bytes: float, count: float, needs: tuple[int, ...], name: str) -> int:
        """A warp's access of `moved_bytes` to shared memory, at this scheduler's share."""
        memory = self.gpu.shared_memory
        share = memory.bytes_per_clock / self.gpu.sm.schedulers
        cycles = max(1, round(moved_bytes / share))
        self.items.append(
            Item(
                "shared_memory",
                max(1, round(count)),
                cycles,
                memory.latency_cycles,
                needs=tuple((n, 0) for n in needs),
                name=name,
            )
        )
        return len(self.items) - 1

    # Copies, and where a block waits for them.

    def _buffered(self, op: Op) -> bool:
        return op.kind == "load" and self.mapping.buffer_count(op.name) > 0

    def _wait_points(self) -> dict[int, list[Op]]:
        """Position in the body → loads that must have arrived before it."""
        chosen = dict(self.mapping.wait_before)
        points: dict[int, list[Op]] = {}
        for load in self.body:
            if not self._buffered(load):
                continue
            target = chosen.get(load.name)
            position = next(
                i
                for i, op in enumerate(self.body)
                if (op.name == target or op.kind == target)
                or (target is None and load.index in op.inputs)
            )
            points.setdefault(position, []).append(load)
        return points

    def _arrive(self, position: int, points: dict[int, list[Op]]) -> None:
        """Waits for the loads of this point, joins the block, issues what has room now."""
        for load in points[position]:
            self.items.append(Item("wait", 1, 0, 0, cause="l2", name=f"wait {load.name}"))
            self.waits[load.name] = len(self.items) - 1
        if self.mapping.copy_unit != "tma":  # TMA signals a barrier in shared memory instead
            self.items.append(Item("barrier", 1, 0, 0))
        ordered = sorted(points)
        for load in self.body:
            if self._buffered(load) and self._issue_point(load, ordered) == position:
                self._copy(load)

    def _last_use(self, load: Op) -> int:
        return max(i for i, op in enumerate(self.body) if load.index in op.inputs)

    def _issue_point(self, load: Op, points: list[int]) -> int:
        """The first wait point after a tile's last use: its buffer is free from there on."""
        after = [point for point in points if point > self._last_use(load)]
        return after[0] if after else points[0]

    def _copy(self, load: Op) -> None:
        """Issues a tile's next copy: through the L2 port, then into shared memory."""
        tile_bytes = load.elements * DTYPE_BYTES[load.dtype]
        self.loaded_bytes += tile_bytes
        warp_bytes = tile_bytes / self.warps
        port = self.gpu.l2.read_bytes_per_clock_per_sm / self.gpu.sm.schedulers
        by_threads = self.mapping.copy_unit == "cp.async"
        count = max(1, round(warp_bytes / (WARP * COPY_BYTES))) if by_threads else 1
        if by_threads:
            self._emit("alu", ADDRESS_INSTRUCTIONS * count, name=f"address {load.name}")
        self.items.append(
            Item(
                "copy",
                count,
                max(1, round(warp_bytes / port)),
                round(self.gpu.l2.latency_cycles),
                asynchronous=True,
                cause="l2",
                name=f"copy {load.name}",
            )
        )
        self.copies[load.name] = len(self.items) - 1
        # What arrives is written into shared memory while the next product runs.
        self.arriving += [load.name] * max(1, round(warp_bytes / LDMATRIX_BYTES))

    def _arrivals(self, pieces: int) -> None:
        """Writes the next pieces that arrive into shared memory."""
        for tensor in self.arriving[:pieces]:
            piece = self._shared(LDMATRIX_BYTES, 1, (), f"fill {tensor}")
            self.items[piece] = replace(self.items[piece], asynchronous=True)
        del self.arriving[:pieces]

    def _bind_copies(self) -> None:
        """Each wait needs the copy issued as many iterations back as there are buffers."""
        points = sorted(self._wait_points())
        for load in self.body:
            if not self._buffered(load):
                continue
            buffers = self.mapping.buffer_count(load.name)
            wrapped = not any(point > self._last_use(load) for point in points)
            back = buffers - 1 if wrapped else buffers
            wait, copy = self.waits[load.name], self.copies[load.name]
            if back == 0 and copy >= wait:
                back = 1
            self.items[wait] = replace(self.items[wait], needs=((copy, back),))

    def _plain_load(self, op: Op) -> None:
        """A load straight into registers: it takes the L2's latency."""
        warp_bytes = op.elements * DTYPE_BYTES[op.dtype] / self.warps
        self.loaded_bytes += op.elements * DTYPE_BYTES[op.dtype]
        port = self.gpu.l2.read_bytes_per_clock_per_sm / self.gpu.sm.schedulers
        self.items.append(
            Item(
                "global",
                max(1, round(warp_bytes / (WARP * COPY_BYTES))),
                max(1, round(warp_bytes / port)),
                round(self.gpu.l2.latency_cycles),
                asynchronous=True,
                cause="l2",
                name=f"load {op.name}",
            )
        )
        self.ready[op.index] = [len(self.items) - 1]

    def _store(self, op: Op) -> None:
        warp_bytes = op.elements * DTYPE_BYTES[op.dtype] / self.warps
        port = self.gpu.l2.write_bytes_per_clock_per_sm / self.gpu.sm.schedulers
        self.items.append(
            Item(
                "global",
                max(1, round(warp_bytes / (WARP * COPY_BYTES))),
                max(1, round(warp_bytes / port)),
                0,
                needs=tuple((n, 0) for n in self._after(op.inputs)),
                asynchronous=True,
                cause="l2",
                name=f"store {op.name}",
            )
        )

    # Matrix products.

    def _matmul(self, op: Op) -> None:
        a, b = (self.record.ops[index] for index in op.inputs[:2])
        if self.mapping.matrix_unit == "wgmma":
            self._wgmma(op, a, b)
        else:
            self._mma(op, a, b)

    def _mma(self, op: Op, a: Op, b: Op) -> None:
        """mma.sync: fragments come by ldmatrix, the next k-step's between this step's products."""
        warp_rows, warp_cols = self.mapping.warp_tile(op.shape)
        size = self.element_bytes
        k = FRAGMENT_K_BYTES // size  # contracted elements an instruction takes
        steps = max(1, ceil(op.contraction / k))
        instructions = ceil(warp_rows / 16) * ceil(warp_cols / 8)
        each = self.gpu.warp_instruction_cycles(
            "mma_sync", TENSOR_DTYPE[self.record.kernel.problem.dtype]
        )
        assert each is not None  # the catalogue refuses dtypes without tensor cores
        accumulates = self._after(op.inputs[2:])
        computed = [
            source
            for source, operand in ((a, 0), (b, 1))
            if not self._from_shared(source, op, operand)
        ]
        a_loads = 0 if a in computed else ceil(warp_rows * k * size / LDMATRIX_BYTES)
        b_loads = 0 if b in computed else ceil(warp_cols * k * size / LDMATRIX_BYTES)
        # One product item a fragment of the wider operand: it waits for that fragment alone.
        groups = max(1, b_loads or ceil(warp_cols / 16))
        latency = self.gpu.tensor_core.latency_cycles
        fetched = self._fragments(a, a_loads, b, b_loads)
        previous: list[int] = []
        for step in range(steps):
            products: list[int] = []
            following: tuple[list[int], list[int]] = ([], [])
            parts = [n for source in computed for n in self._part(source.index, step, steps)]
            if step == 0:
                parts += accumulates
            for group in range(groups):
                count = instructions * (group + 1) // groups - instructions * group // groups
                cycles = round(instructions * (group + 1) * each / groups) - round(
                    instructions * group * each / groups
                )
                if step + 1 < steps:
                    self._fetch_next(following, group, groups, (a, a_loads), (b, b_loads))
                needs = [*parts, *fetched[0], *fetched[1][group : group + 1]]
                # The same accumulators, a step ago: waited for only if the step is that short.
                if previous and instructions * each < latency:
                    needs.append(previous[group])
                unique = tuple((n, 0) for n in dict.fromkeys(needs))
                self.items.append(Item("tensor", count, cycles, latency, unique, name=op.name))
                products.append(len(self.items) - 1)
                left = steps * groups - (step * groups + group)
                self._arrivals(ceil(len(self.arriving) / left))
            previous, fetched = products, following
        self.ready[op.index] = previous

    def _fragments(self, a: Op, a_loads: int, b: Op, b_loads: int) -> tuple[list[int], list[int]]:
        """The fragments of a step, A's and B's, each by an ldmatrix of its own."""
        return [self._fragment(a) for _ in range(a_loads)], [
            self._fragment(b) for _ in range(b_loads)
        ]

    def _fetch_next(
        self,
        fetched: tuple[list[int], list[int]],
        group: int,
        groups: int,
        a: tuple[Op, int],
        b: tuple[Op, int],
    ) -> None:
        """The next step's fragments go between this step's products, evenly."""
        for into, (source, loads) in zip(fetched, (a, b), strict=True):
            for _ in range(loads * (group + 1) // groups - loads * group // groups):
                into.append(self._fragment(source))

    def _fragment(self, source: Op) -> int:
        return self._shared(LDMATRIX_BYTES, 1, tuple(self._after((source.index,))), "ldmatrix")

    def _from_shared(self, source: Op, op: Op, operand: int) -> bool:
        """Loaded tiles are read from shared memory; computed ones if the mapping says so."""
        if operand == 0 and op.name in self.mapping.operands_in_registers:
            return False
        return source.kind == "load" and self.mapping.buffer_count(source.name) > 0

    def _wgmma(self, op: Op, a: Op, b: Op) -> None:
        """wgmma: m64 × n of a warpgroup, asynchronous, at the tensor rate or shared memory's."""
        rows, cols = op.shape
        warpgroups = max(1, self.warps // 4)
        size = self.element_bytes
        k = FRAGMENT_K_BYTES // size
        rate = self.gpu.tensor_core.flops_per_clock[TENSOR_DTYPE[self.record.kernel.problem.dtype]]
        assert rate is not None
        m_tiles = ceil(rows / 64 / warpgroups)
        tensor = 2 * 64 * cols * k / rate
        a_bytes = 64 * k * size if self._from_shared(a, op, 0) else 0
        shared = (a_bytes + cols * k * size) / self.gpu.shared_memory.bytes_per_clock
        steps = max(1, ceil(op.contraction / k))
        needs = [(n, 0) for n in self._after(op.inputs)]
        self.items.append(
            Item(
                "tensor",
                steps * m_tiles,
                round(steps * m_tiles * max(tensor, shared)),
                WGMMA_WAIT_CYCLES,
                tuple(needs),
                asynchronous=True,
                name=op.name,
            )
        )
        self.ready[op.index] = [len(self.items) - 1]
        if op.index == self._last_matmul() and not self.users.get(op.index):
            # A GEMM's accumulator: one step stays in flight while the next is issued.
            me = len(self.items) - 1
            self.items.append(Item("wait", 1, 0, 0, ((me, 1),), name="wgmma wait"))

    def _last_matmul(self) -> int:
        return max(op.index for op in self.body if op.kind == "matmul")

    # Elementwise runs.

    def _multiply_adds(self) -> set[int]:
        """Products whose only use is an addition or subtraction: they become one FFMA with it."""
        users: dict[int, list[Op]] = {}
        for op in self.body:
            for index in op.inputs:
                users.setdefault(index, []).append(op)
        fused: set[int] = set()
        for op in self.body:
            consumers = users.get(op.index, [])
            if op.kind == "mul" and len(consumers) == 1 and consumers[0].kind in ("add", "sub"):
                taken = sum(index in fused for index in consumers[0].inputs)
                if consumers[0].shape == op.shape and not taken:
                    fused.add(op.index)
        return fused

    def _runs(self, pending: list[Op]) -> None:
        """Fuses operations over the same elements into runs, each run as long as it can be.

        A run is cut where an operation takes a row result of the run; operations over other
        elements that the run does not need come after it.
        """
        while pending:
            run: list[Op] = []
            left: list[Op] = []
            for op in pending:
                later = {other.index for other in left}
                reduced = {other.index for other in run if other.kind in REDUCTIONS}
                fits = not run or self._wide(op) == self._wide(run[0])
                if fits and not set(op.inputs) & (later | reduced):
                    run.append(op)
                else:
                    left.append(op)
            beside = self._beside(run, left)
            self._run(run, beside)
            pending = [op for op in left if not any(op in other for other in beside)]

    def _beside(self, run: list[Op], left: list[Op]) -> list[list[Op]]:
        """Tile-wide operations to issue in the shadow of a run that the SFU holds up.

        They wait for nothing that is still to come: O's rescaling beside the exponentials.
        """
        if self._wide(run[0])[1] == 1 or not any(op.kind in SFU_OPS for op in run):
            return []
        coming = {op.index for op in run + left}
        return [
            [op]
            for op in left
            if self._wide(op)[1] > 1 and op.kind not in SFU_OPS and not coming & set(op.inputs)
        ]

    def _wide(self, op: Op) -> tuple[int, int]:
        """Shape of the elements an operation works on."""
        return self.record.ops[op.inputs[0]].shape if op.kind in REDUCTIONS else op.shape

    def _per_thread(self, shape: tuple[int, int]) -> float:
        """Elements of a tile one thread works on; row values are held by all four of a quad."""
        rows, cols = shape
        if cols == 1:
            warp_rows, _ = self.mapping.warp_tile(shape)
            return max(1.0, warp_rows / 8)
        return rows * cols / (WARP * self.warps)

    def _run(self, run: list[Op], beside: list[list[Op]]) -> None:
        """Fused operations over the same elements, a few elements at a time."""
        elements = self._per_thread(self._wide(run[0]))
        groups = int(min(RUN_GROUPS, max(1.0, elements // INTERLEAVE)))
        others = [op for other in beside for op in other]
        parts: dict[int, list[int]] = {op.index: [] for op in run + others}
        late: list[tuple[Op, int]] = []  # additions wait a group for their exp2
        for group in range(groups + 1):
            waiting, late = late, []
            behind_sfu = False
            for op in run if group < groups else ():
                if behind_sfu and groups > 1:
                    late.append((op, group))
                else:
                    self._element_items(op, elements, group, groups, parts)
                behind_sfu = behind_sfu or op.kind in SFU_OPS
            for op in others if group < groups else ():
                width = self._per_thread(self._wide(op))
                self._element_items(op, width, group, groups, parts)
            for op, earlier in waiting:
                self._element_items(op, elements, earlier, groups, parts)
        run = run + others
        for op in run:
            self.ready[op.index] = parts[op.index] or self._after(op.inputs)
            if op.kind in REDUCTIONS:
                self._combine_rows(op)

    def _element_items(
        self, op: Op, elements: float, group: int, groups: int, parts: dict[int, list[int]]
    ) -> None:
        pipe, per_element = instruction_cost(op, self.record, self.masked)
        if per_element == 0 or op.index in self.fused:
            return
        total = max(1, round(elements * per_element))
        count = total * (group + 1) // groups - total * group // groups
        if count == 0:
            return
        needs = []
        for index in op.inputs:
            source = parts.get(index)
            if source is None and index in self.fused:
                # A fused product's own inputs feed the addition.
                needs += self._after(self.record.ops[index].inputs)
            elif source:
                needs.append(source[min(group, len(source) - 1)])
            else:
                needs += self._after((index,))
        unique = tuple((n, 0) for n in dict.fromkeys(needs))
        item = self._emit(
            pipe, count, needs=unique, name=op.kind, asynchronous=pipe == "sfu" and count > 1
        )
        parts[op.index].append(item)

    def _combine_rows(self, op: Op) -> None:
        """A row's partial results are combined across the quad that shares it: two shuffles.

        A sum that is only carried on needs none until the end.
        """
        if op.kind == "row_sum" and self._only_carried(op):
            return
        values = self._per_thread(op.shape)
        last = self.ready[op.index]
        pipe = "alu" if op.kind == "row_max" else "fp32"
        for _ in range(2):
            shuffle = self._shared(values * WARP * 4 / 2, values, tuple(last[-1:]), "shuffle")
            last = [self._emit(pipe, values, needs=((shuffle, 0),), name=op.kind)]
        self.ready[op.index] = last

    def _only_carried(self, op: Op) -> bool:
        return all(
            user.kind == "add" and not self.users.get(user.index)
            for user in self.users.get(op.index, [])
        )

    # What an operation waits for.

    def _after(self, indices: tuple[int, ...]) -> list[int]:
        """Items after which these values are visible; values from outside the loop are."""
        found: list[int] = []
        for index in indices:
            if index in self.ready:
                found += self.ready[index][-1:]
            elif index in self.indices and self.record.ops[index].kind == "load":
                wait = self.waits.get(self.record.ops[index].name)
                found += [] if wait is None else [wait]
        return found

    def _part(self, index: int, step: int, steps: int) -> list[int]:
        """The items that make the columns a k-step contracts."""
        items = self.ready.get(index)
        if not items:
            return self._after((index,))
        return [items[min(len(items) - 1, ceil((step + 1) * len(items) / steps) - 1)]]


def instruction_cost(op: Op, record: Record, masked: bool) -> tuple[str, float]:
    """Pipe and instructions per element of an elementwise operation or a row reduction."""
    if op.kind in ("exp2", "log2", "inverse"):
        return "sfu", 1.0
    if op.kind in ("maximum", "row_max"):
        return "alu", 1.0
    if op.kind == "finite":
        return "alu", 2.0  # compare, select
    if op.kind == "mask":
        hides = masked and record.kernel.problem.causal
        return "alu", float(MASK_INSTRUCTIONS if hides else 0)
    if op.kind == "cast":
        source = record.ops[op.inputs[0]].dtype
        if source == op.dtype:
            return "alu", 0.0
        return "alu", 1.0 if op.dtype == "fp32" else 0.5  # F2FP packs two
    return "fp32", 1.0
