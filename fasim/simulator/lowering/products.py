"""Matrix products: mma.sync with its fragments, one warp at a time; wgmma; FP32 lanes."""

from __future__ import annotations

from math import ceil

from fasim.hardware.gpu import LDMATRIX_BYTES, WARP
from fasim.problem import DTYPE_BYTES, TENSOR_DTYPE
from fasim.schedules.record import Op
from fasim.simulator.lowering.body import LoopBody
from fasim.simulator.lowering.copies import Copies
from fasim.simulator.lowering.emitter import Emitter
from fasim.simulator.lowering.exchange import add_partials
from fasim.simulator.lowering.fragments import Fragments, share
from fasim.simulator.lowering.instructions import MMA_COLUMNS, MMA_K_BYTES, MMA_ROWS, WGMMA_ROWS
from fasim.simulator.lowering.pieces import Pieces
from fasim.simulator.stream import Item, latency_left

# From the last wgmma's completion until a warp that waits for it goes on: a figure taken over
# with the engine's other latencies; its measurement is not known.
WGMMA_WAIT_CYCLES = 60
# wgmmas of one warp at the tensor core: one runs, one is ready behind it. So warpgroups that
# multiply at the same time alternate, and end at the same time. An assumption, made after a
# FlashAttention-3 loop without ping-pong came out too fast without it; it wants a probe.
WGMMA_QUEUE = 2
# A thread of an SGEMM multiplies 8 rows by 8 columns: of each step along the contracted side it
# reads 16 values of four bytes, in loads of 16 bytes.
FFMA_ROWS = FFMA_COLUMNS = 8
FFMA_LOADS = (FFMA_ROWS + FFMA_COLUMNS) * 4 / 16
FFMA_GROUPS = 8  # parts of a product: operands of one are fetched beside the one before


class Products:
    """Emits the matrix products of one iteration."""

    def __init__(self, body: LoopBody, emitter: Emitter, copies: Copies, pieces: Pieces) -> None:
        self.body, self.emitter, self.copies, self.pieces = body, emitter, copies, pieces
        self.gpu, self.mapping = body.gpu, body.mapping
        dtype = body.record.kernel.problem.dtype
        self.tensor_dtype = TENSOR_DTYPE[dtype]
        self.element_bytes = DTYPE_BYTES[dtype]
        self.k_elements = MMA_K_BYTES // self.element_bytes  # contracted by one instruction
        self.last = max((op.index for op in body.ops if op.kind == "matmul"), default=-1)

    def set_up(self) -> None:
        """A product's share of the compiled loop's overhead: iterators over its operands."""
        if self.mapping.overhead is None:
            return
        products = sum(op.kind == "matmul" for op in self.body.ops)
        integer, fp32, others = (count / products for count in self.mapping.overhead)
        self.emitter.arithmetic("alu", integer, name="set up")
        self.emitter.arithmetic("fp32", fp32, name="set up")
        # Branches, and what runs once a warp: these take an issue slot, and no pipe kept here.
        self.emitter.append(Item("alu", max(1, round(others)), 0, name="set up"))

    def emit(self, op: Op, sums: list[int]) -> None:
        """Emits one product; its value is visible after the items of its last k-step.

        Args:
            sums: items that bring what it adds to, beside an accumulator of the program's.
        """
        if self.mapping.matrix_unit == "wgmma":
            self._wgmma(op)
        elif self.mapping.matrix_unit == "ffma":
            self._ffma(op)
        else:
            self._mma(op, sums)

    def _from_shared(self, op: Op, operand: int) -> bool:
        """Whether an operand is read from shared memory, loaded or staged there."""
        if operand == self.mapping.register_operand(op.name):
            return False
        source = self.body.sources(op)[operand]
        return self.body.is_buffered(source) or self.body.is_staged(source)

    def _mma(self, op: Op, sums: list[int]) -> None:
        """mma.sync: fragments come by ldmatrix, ahead of the step that multiplies them.

        A step is cut into groups, one for each fragment of B: a group waits for that fragment,
        and for all of A's. Where operands come in pieces, the next piece must be there before the
        last step of this one, which fetches its first fragments.
        """
        a, b = self.body.sources(op)[:2]
        rows, columns = self.mapping.warp_tile(op.shape, op.name)
        steps = max(1, ceil(op.contraction / self.k_elements))
        instructions = ceil(rows / MMA_ROWS) * ceil(columns / MMA_COLUMNS)
        each = self.gpu.warp_instruction_cycles("mma_sync", self.tensor_dtype)
        assert each is not None  # the catalogue refuses dtypes without tensor cores
        latency = latency_left(self.gpu.tensor_core.latency_cycles, each)
        operands = [
            (source, self._fragments(extent) if self._from_shared(op, side) else 0)
            for side, (source, extent) in enumerate(((a, rows), (b, columns)))
        ]
        in_registers = [source.index for source, loads in operands if not loads]
        groups = max(1, operands[1][1] or ceil(columns / 16))
        steps_of_piece = 0
        if self.body.streamed_operands(op):
            steps_of_piece = max(1, self.mapping.product_step // self.k_elements)
            self.pieces.arrive(op, 0)
        fragments = Fragments(self.emitter, operands, steps, guarded=self.mapping.guarded_fragments)
        previous: list[int] = []
        for step in range(steps):
            if steps_of_piece and (step + 1 == steps or (step + 1) % steps_of_piece == 0):
                self.pieces.arrive(op, step // steps_of_piece + 1)
            fragments.begin(step)
            products: list[int] = []
            parts = [n for index in in_registers for n in self.emitter.part(index, step, steps)]
            if step == 0:
                parts += [*self.emitter.after(op.inputs[2:]), *sums]
            for group in range(groups):
                count = share(instructions, group, groups)
                begin, end = instructions * group, instructions * (group + 1)
                cycles = round(end * each / groups) - round(begin * each / groups)
                fragments.beside(group, groups)
                needs = [*parts, *fragments.needs(step, group)]
                # The same accumulators, a step ago: waited for only if the step is that short.
                if previous and instructions * each < latency:
                    needs.append(previous[group])
                unique = tuple((n, 0) for n in dict.fromkeys(needs))
                done = 0
                for alike in fragments.parts(count, group, groups):
                    busy = cycles * (done + alike) // count - cycles * done // count
                    item = Item("tensor", alike, busy, latency, unique, name=op.name)
                    product = self.emitter.append(item)
                    done += alike
                    fragments.behind(product, group, groups, ends=done == count)
                products.append(product)
                self.copies.fill_share(groups * (steps - step) - group)
            previous = products
        warps = self.body.contraction_warps(op)
        if warps > 1:
            previous = [add_partials(self.emitter, op.elements, warps, previous)]
        self.emitter.made(op.index, previous)

    def _fragments(self, extent: int) -> int:
        """ldmatrix.x4 instructions for one k-step of an operand this many rows or columns wide."""
        return ceil(extent * MMA_K_BYTES / LDMATRIX_BYTES)

    def _ffma(self, op: Op) -> None:
        """Multiply-adds of the FP32 lanes; lanes that read the same value share the read."""
        rows, columns = self.mapping.warp_tile(op.shape, op.name)
        instructions = rows * columns * op.contraction / WARP / FFMA_GROUPS
        threads = WARP * FFMA_ROWS * FFMA_COLUMNS  # elements that a warp multiplies at a time
        passes = ceil(rows * columns / threads) * op.contraction / FFMA_GROUPS
        read_bytes = (rows + columns) * op.contraction * self.element_bytes / FFMA_GROUPS
        needs = self.emitter.after(op.inputs)

        def fetch() -> int:
            return self.emitter.shared_memory(
                read_bytes, FFMA_LOADS * passes, needs=needs, name="fetch"
            )

        fetched, products = fetch(), list[int]()
        for group in range(FFMA_GROUPS):
            following = fetch() if group + 1 < FFMA_GROUPS else fetched
            products.append(
                self.emitter.arithmetic("fp32", instructions, needs=[fetched], name=op.name)
            )
            self.copies.fill_share(FFMA_GROUPS - group)
            fetched = following
        self.emitter.made(op.index, products[-1:])

    def _wgmma(self, op: Op) -> None:
        """wgmma: m64 × n of a warpgroup, asynchronous, at the tensor rate or shared memory's."""
        rows, columns = self.mapping.warpgroup_tile(op.shape, op.name)
        first = 1 if op.name in self.mapping.transposed_matmuls else 0  # what gives the 64 rows
        k = self.k_elements
        rate = self.gpu.tensor_core.flops_per_clock[self.tensor_dtype]
        assert rate is not None  # the catalogue refuses dtypes without tensor cores
        tensor = 2 * WGMMA_ROWS * columns * k / rate
        a_rows = WGMMA_ROWS if self._from_shared(op, first) else 0
        read_bytes = (a_rows + columns) * k * self.element_bytes
        shared = read_bytes / self.gpu.shared_memory.bytes_per_clock
        count = max(1, ceil(op.contraction / k)) * ceil(rows / WGMMA_ROWS)
        items = self._queue(op, count, max(tensor, shared))
        product = items[-1]
        self.emitter.made(op.index, [product])
        if self.body.is_delayed(op):
            # It is the iteration before's: so are its operands, and so is its value.
            computed = [i for i in op.inputs if not self.body.is_buffered(self.body.record.ops[i])]
            for index in computed:
                self.emitter.require_earlier(items[0], index)
            for before, now in self.body.carried.items():
                if now is op:
                    self.emitter.made(before, [product])
        elif self.mapping.joins_products and self.body.used(op):
            self.emitter.append(Item("barrier", 1, 0, needs=((product, 0),)))
        elif op.index == self.last and not (self.body.used(op) or self.body.is_beside(op)):
            # A GEMM's accumulator: one step stays in flight while the next is issued.
            self.emitter.append(Item("wait", 1, 0, needs=((product, 1),), name="wgmma wait"))

    def drain(self) -> None:
        """Ends an iteration: waits for products that ran beside it and that nothing here takes.

        Their operands' buffers are given back then, and registers written again.
        """
        for op in self.body.ops:
            if self.body.is_beside(op) and not self.body.used(op):
                needs = tuple((item, 0) for item in self.emitter.after((op.index,)))
                self.emitter.append(Item("wait", 1, 0, needs=needs, name="wgmma wait"))

    def _queue(self, op: Op, count: int, each: float) -> list[int]:
        """The wgmmas of one product: the first waits for its operands, each for the queue.

        A product beside which the warp works is queued whole: it does not wait, and goes on.
        """
        items: list[int] = []
        goes_on = self.body.is_delayed(op) or self.body.is_beside(op)
        at_once = count if goes_on else 1
        for begin in range(0, count, at_once):
            end = begin + at_once
            needs = [] if begin else self.emitter.after(op.inputs)
            if at_once == 1:
                needs += items[: 1 - WGMMA_QUEUE][-1:]
            item = Item(
                "tensor",
                at_once,
                round(end * each) - round(begin * each),
                WGMMA_WAIT_CYCLES if end == count else 0,
                tuple((n, 0) for n in dict.fromkeys(needs)),
                asynchronous=True,
                name=op.name,
            )
            items.append(self.emitter.append(item))
            self.copies.fill_share(ceil((count - begin) / at_once))
        return items
