"""Planted faults, each found by the reading that must find it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from fasim.problem import Attention
from fasim.readings import numerics, reference
from fasim.readings.global_memory import GlobalTensor
from fasim.readings.numpy_block import NumpyBlock
from fasim.readings.traffic import traffic
from fasim.schedules import visits
from fasim.schedules.flash2 import flash2_forward
from fasim.schedules.language import Block, Kernel, ProgramError, Tensor
from fasim.schedules.mapping import Mapping
from fasim.schedules.online_softmax import OnlineSoftmax
from fasim.schedules.record import record
from fasim.schedules.visits import Span, Visit
from tests.readings.chains import (
    Kernels,
    Tiles,
    build_flash1,
    build_flash2,
    closed_flash2,
    shape_of,
)

PROBLEM = Attention(1, 2, 96, 96, 32, causal=True)
TILES = Tiles(32, 16)
Program = Callable[[Block, Attention], None]


def planted(program: Program, mapping: Mapping = Mapping(4)) -> Kernels:  # noqa: B008 - frozen
    """FlashAttention-2's kernel with another program."""
    (kernel,) = build_flash2(PROBLEM, TILES)
    return (replace(kernel, program=program, mapping=mapping),)


def run(kernels: Kernels) -> numerics.NumericsResult:
    return numerics.run(kernels, numerics.random_inputs(PROBLEM))


def is_right(kernels: Kernels) -> bool:
    inputs = numerics.random_inputs(PROBLEM)
    output = numerics.run(kernels, inputs).tensors["O"]
    q, k, v = inputs["Q"], inputs["K"], inputs["V"]
    exact, _ = reference.attention(PROBLEM, q, k, v)
    plain = reference.attention_in(PROBLEM, q, k, v)
    allowed = 2 * np.abs(plain - exact).max() + reference.rounding_band(PROBLEM, exact)
    return bool(np.abs(output - exact).max() <= allowed)


def predicted_bytes(kernels: Kernels) -> dict[str, tuple[int, int]]:
    (kernel,) = traffic(kernels).kernels
    return {name: (a.read_bytes, a.write_bytes) for name, a in kernel.global_.items()}


def counted_bytes(kernels: Kernels) -> dict[str, tuple[int, int]]:
    (level,) = run(kernels).kernels
    return {name: (a.read_bytes, a.write_bytes) for name, a in level.items()}


def closed_form() -> dict[str, tuple[int, int]]:
    (counted,) = closed_flash2(shape_of(PROBLEM), TILES)
    return counted.global_


def flash2_with(inside: Callable[[Block, dict[str, object]], None]) -> Program:
    """FlashAttention-2 with something done in every step of the loop over K and V."""

    def program(block: Block, problem: Attention) -> None:
        m_rows = block.rows("q")
        q = block.load("Q", m_rows)
        softmax = OnlineSoftmax(block, m_rows, problem.scale)
        acc_o = block.full(0.0, m_rows, block.all("d"))
        kept: dict[str, object] = {}
        for n_rows in block.loop("k", seen_from=m_rows):
            k, v = block.load("K", n_rows), block.load("V", n_rows)
            s = block.mask(block.matmul(q, k.T, name="S"))
            p, correction = softmax.update(s)
            acc_o = block.matmul(p.to(problem.dtype), v, acc=acc_o * correction, name="O")
            kept |= {"n_rows": n_rows, "m_rows": m_rows, "k": k, "q": q, "s": s, "acc_o": acc_o}
            inside(block, kept)
        block.store("O", (acc_o * softmax.inverse()).to(problem.dtype), m_rows)
        block.store("LSE", softmax.lse(), m_rows)

    return program


def test_the_sound_program_passes_every_reading() -> None:
    for kernels in (planted(flash2_forward), planted(flash2_with(lambda *_: None))):
        assert is_right(kernels)
        assert predicted_bytes(kernels) == counted_bytes(kernels) == closed_form()


# Work that need not be done: answers are right, and both counts agree; only the closed form sees.


def test_closed_form_finds_an_extra_load_that_is_used() -> None:
    def load_k_again(block: Block, kept: dict) -> None:
        block.matmul(kept["q"], block.load("K", kept["n_rows"]).T, name="S")

    kernels = planted(flash2_with(load_k_again))
    assert is_right(kernels)
    assert predicted_bytes(kernels) == counted_bytes(kernels)
    assert predicted_bytes(kernels)["K"][0] == 2 * closed_form()["K"][0]


def test_closed_form_finds_causal_blocks_that_are_not_skipped() -> None:
    def visit_everything(block: Block, problem: Attention) -> None:
        m_rows = block.rows("q")
        q = block.load("Q", m_rows)
        softmax = OnlineSoftmax(block, m_rows, problem.scale)
        acc_o = block.full(0.0, m_rows, block.all("d"))
        for n_rows in block.loop("k"):
            k, v = block.load("K", n_rows), block.load("V", n_rows)
            p, correction = softmax.update(block.mask(block.matmul(q, k.T, name="S")))
            acc_o = block.matmul(p.to(problem.dtype), v, acc=acc_o * correction, name="O")
        block.store("O", (acc_o * softmax.inverse()).to(problem.dtype), m_rows)
        block.store("LSE", softmax.lse(), m_rows)

    kernels = planted(visit_everything)
    assert is_right(kernels)
    assert predicted_bytes(kernels) == counted_bytes(kernels)
    assert predicted_bytes(kernels) != closed_form()


# Wrong masks: the reference sees one in the values, the other readings one in the tiles visited.


def test_reference_finds_a_mask_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = NumpyBlock._visible

    def one_key_more(self: NumpyBlock, a: object, b: object) -> np.ndarray:
        return sound(self, replace(a, start=a.start + 1, stop=a.stop + 1), b)

    monkeypatch.setattr(NumpyBlock, "_visible", one_key_more)
    assert not is_right(planted(flash2_forward))


def test_reference_finds_a_mask_left_out() -> None:
    def no_mask(block: Block, problem: Attention) -> None:
        mask = block.mask
        block.mask = lambda scores: scores  # type: ignore[method-assign]
        flash2_forward(block, problem)
        block.mask = mask  # type: ignore[method-assign]

    assert not is_right(planted(no_mask))


def test_numerics_and_closed_form_find_visits_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = visits.visit

    def one_key_more(
        kernel: Kernel, loop: object, seen_from: Span | None, within: Span | None
    ) -> Visit:
        assert seen_from is not None
        return sound(kernel, loop, Span(seen_from.start, seen_from.stop + 1), within)

    monkeypatch.setattr("fasim.readings.counting.visit", one_key_more)
    kernels = planted(flash2_forward)
    assert predicted_bytes(kernels) != counted_bytes(kernels)
    assert counted_bytes(kernels) == closed_form()


# Accesses that are wasted or race: numerics refuses to run them.


def test_a_load_that_nothing_uses_is_refused_by_both_interpreters() -> None:
    kernels = planted(flash2_with(lambda block, kept: block.load("V", kept["n_rows"])))
    message = "loads a tile of V and never uses it"
    with pytest.raises(ProgramError, match=message):
        record(kernels[0])
    with pytest.raises(ProgramError, match=f"kernel flash2_forward, block q .*: {message}"):
        run(kernels)


def test_numerics_finds_a_double_write() -> None:
    def store_o(block: Block, kept: dict) -> None:
        block.store("O", kept["acc_o"].to("fp16"), kept["m_rows"])

    with pytest.raises(ProgramError, match="writes O again without having read it since"):
        run(planted(flash2_with(store_o)))


def test_numerics_finds_a_read_of_what_nothing_has_written() -> None:
    (kernel,) = build_flash1(PROBLEM, TILES)

    def without_line_2(block: Block, _: Attention) -> None:
        for m_rows in block.loop("q"):
            q, o = block.load("Q", m_rows), block.load("O", m_rows)
            block.store("O", (o.to("fp32") + q.to("fp32")).to("fp16"), m_rows)

    with pytest.raises(ProgramError, match="reads elements of O that nothing has written"):
        run((replace(kernel, program=without_line_2),))


def copy_rows(read_all: bool, write_all: bool) -> Program:
    def program(block: Block, _: Attention) -> None:
        own, every = block.rows("q"), block.all("q")
        q = block.load("Q", every if write_all else own)
        block.store("O", q, every if write_all else own)
        if read_all:
            o = block.load("O", every).to("fp32")
            block.store("LSE", o.row_sum(), every)

    return program


def test_numerics_finds_a_block_that_reads_what_another_wrote() -> None:
    inputs = numerics.random_inputs(PROBLEM)
    inputs["O"] = np.zeros_like(inputs["Q"])  # defined, so that only the race is wrong
    inputs["LSE"] = np.zeros(inputs["Q"].shape[:3], np.float32)
    with pytest.raises(ProgramError, match="reads what another block of this kernel wrote to O"):
        numerics.run(planted(copy_rows(read_all=True, write_all=False)), inputs)


def test_numerics_finds_two_blocks_that_write_one_element() -> None:
    with pytest.raises(ProgramError, match="writes what another block of this kernel wrote to O"):
        run(planted(copy_rows(read_all=False, write_all=True)))


def test_numerics_finds_more_tiles_than_buffers() -> None:
    held: list[object] = []
    program = flash2_with(lambda _, kept: held.append(kept["k"]))
    two = Mapping(4, buffers=(("K", 2),))
    with pytest.raises(ProgramError, match="holds 3 tiles of K at once; its mapping has 2"):
        run(planted(program, two))
    held.clear()
    run(planted(program, Mapping(4, buffers=(("K", 6 * 3 * 2),))))  # 6 tiles of 3 rows of 2 heads


def test_what_a_block_does_not_write_stays_nan() -> None:
    def first_rows_only(block: Block, _: Attention) -> None:
        block.store("LSE", block.full(0.0, block.rows("q")), block.rows("q"))

    tensors = run(planted(first_rows_only)).tensors
    assert np.isnan(tensors["O"]).all()
    assert not np.isnan(tensors["LSE"]).any()


def test_blocks_run_in_an_order_that_the_seed_decides() -> None:
    order: list[tuple[int, ...]] = []

    def note_order(block: Block, _: Attention) -> None:
        assert isinstance(block, NumpyBlock)
        order.append(tuple(block.coordinates.values()))

    kernels = planted(note_order)
    for seed in (1, 1, 2):
        numerics.run(kernels, {}, seed)
    first, again, other = order[:6], order[6:12], order[12:]
    assert first == again != other
    assert sorted(first) == sorted(other) != first


# Programs that break the language: the recorder refuses them, numerics too where it can tell.


def branch_on_rows(block: Block, kept: dict) -> None:
    if kept["n_rows"]:
        block.full(0.0, kept["m_rows"])


def branch_on_values(block: Block, kept: dict) -> None:
    if kept["s"].row_max():
        block.full(0.0, kept["m_rows"])


def undeclared_tensor(block: Block, kept: dict) -> None:
    block.store("S", kept["s"], kept["m_rows"])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (branch_on_rows, "must not branch on rows of 'k'"),
        (branch_on_values, "must not branch on values"),
        (undeclared_tensor, "declares no tensor 'S', only Q, K, V, O, LSE"),
    ],
)
def test_both_interpreters_refuse(fault: Callable[[Block, dict], None], message: str) -> None:
    kernels = planted(flash2_with(fault))
    with pytest.raises(ProgramError, match=message):
        record(kernels[0])
    with pytest.raises(ProgramError, match=message):
        run(kernels)


def unrounded_output(block: Block, problem: Attention) -> None:
    m_rows = block.rows("q")
    block.store("O", block.load("Q", m_rows) * problem.scale, m_rows)


def unrounded_operand(block: Block, problem: Attention) -> None:
    q = block.load("Q", block.rows("q"))
    block.matmul(q * problem.scale, block.load("K", block.all("k")).T, name="S")


def forgotten_transpose(block: Block, _: Attention) -> None:
    q, k = block.load("Q", block.rows("q")), block.load("K", block.all("k"))
    block.matmul(q, k, name="S")


def rows_of_no_grid_axis(block: Block, _: Attention) -> None:
    block.load("K", block.rows("k"))


def range_of_another_tensor(block: Block, _: Attention) -> None:
    block.load("K", block.rows("q"))


def loop_left_early(block: Block, _: Attention) -> None:
    for _ in block.loop("k"):
        break


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (unrounded_output, "O is declared fp16 and a fp32 tile is stored"),
        (unrounded_operand, "matmul S multiplies fp32 by fp16; cast one of them"),
        (forgotten_transpose, "matmul S contracts 'd' with 'k'"),
        (rows_of_no_grid_axis, "'k' is no grid axis of kernel flash2_forward"),
        (range_of_another_tensor, "tensor K has no axis 'q', only batch, kv_head, k, d"),
        (loop_left_early, "leaves a loop before its last tile"),
    ],
)
def test_the_recorder_refuses(program: Program, message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        record(planted(program)[0])


def test_what_blocks_may_write_repeatedly_must_be_the_same() -> None:
    """Delta, which every block works out for itself; elsewhere even equal values are an error."""
    values = np.arange(4, dtype=np.float32)
    everywhere = (slice(0, 4),)
    for repeated in (True, False):
        tensor = Tensor("delta", ("q",), "fp32", repeated=repeated)
        memory = GlobalTensor(tensor, {"q": 4}, None)
        memory.write(everywhere, values, block=0)
        if not repeated:
            with pytest.raises(ProgramError, match="another block of this kernel wrote"):
                memory.write(everywhere, values, block=1)
            continue
        memory.write(everywhere, values, block=1)
        with pytest.raises(ProgramError, match="other values than another block to delta"):
            memory.write(everywhere, values + 1, block=2)
        with pytest.raises(ProgramError, match="again without having read it since"):
            memory.write(everywhere, values, block=1)
        assert memory.access.write_bytes == 2 * 4 * 4
