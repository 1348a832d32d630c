"""Dropout: which elements it keeps, and that every program and direction keeps the same."""

from dataclasses import replace

import numpy as np
import pytest

from fasim.hardware import Gpu, load
from fasim.problem import Attention
from fasim.readings import dropout, numerics, reference
from fasim.readings.traffic import traffic
from fasim.schedules import catalog
from fasim.schedules.language import Block, ProgramError
from fasim.schedules.plan import Options, Refused
from fasim.schedules.record import record
from fasim.simulator.lowering.instructions import (
    DROPOUT_INSTRUCTIONS,
    PHILOX_INSTRUCTIONS,
    instruction_cost,
)

PROBLEM = Attention(2, 4, 70, 90, 64, kv_heads=2, dropout=0.3)
GROUPED = (
    "standard",
    "flash1",
    "flash2",
    "flash-attn-2",
    "pytorch-flash",
    "xformers-cutlass",
    "pytorch",
)
# These take as many key/value heads as query heads, and square causal masks.
PLAIN = ("flash-attn-0.1", "flash-attn-1", "megatron", "pytorch-math")
HAVE_IT = (*GROUPED, *PLAIN)


def problem_of(name: str) -> Attention:
    """The problem that an implementation takes."""
    if name in GROUPED:
        return replace(PROBLEM, dtype="bf16")
    dtype = "fp16" if name == "flash-attn-0.1" else "bf16"
    return Attention(1, 2, 300, 300, 64, dropout=PROBLEM.dropout, dtype=dtype)


def planned(problem: Attention, gpu: Gpu, name: str, options: Options | None = None):
    asked = (name, None) if name in catalog.SCHEDULES else (None, name)
    return catalog.plan(problem, gpu, *asked, options=options).kernels


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_it_drops_as_many_as_asked(rate: float) -> None:
    problem = Attention(1, 2, 512, 512, 8, dropout=rate)
    kept = dropout.factors(problem) > 0
    deviation = np.sqrt(rate * (1 - rate) / kept.size)
    assert abs((1 - kept.mean()) - rate) < 4 * deviation
    # Neither rows, columns nor heads are alike.
    assert abs((1 - kept[0, 0].mean(axis=0)) - rate).max() < 6 * deviation * np.sqrt(2 * 512)
    both = (~kept[0, 0] & ~kept[0, 1]).mean()
    assert abs(both - rate**2) < 4 * np.sqrt(rate**2 / 512**2)


def test_an_element_does_not_depend_on_who_asks_for_it() -> None:
    whole = dropout.kept(PROBLEM, 1, 3, range(70), range(90))
    part = dropout.kept(PROBLEM, 1, 3, range(16, 48), range(33, 90))
    np.testing.assert_array_equal(whole[16:48, 33:], part)


def test_another_seed_or_place_drops_others() -> None:
    first = dropout.factors(PROBLEM)
    other = dropout.factors(replace(PROBLEM, dropout_seed=1))
    assert 0.3 < (first != other).mean() < 0.55  # 2 · 0.3 · 0.7
    assert (first[0, 0] != first[0, 1]).any()
    assert (first[0, 0] != first[1, 0]).any()


def test_kept_elements_are_scaled() -> None:
    assert set(np.unique(dropout.factors(PROBLEM))) == {0, np.float32(1 / 0.7)}


def test_without_dropout_programs_have_no_operation(a100: Gpu) -> None:
    for name in HAVE_IT:
        problem = replace(problem_of(name), dropout=0.0, direction="both")
        for kernel in planned(problem, a100, name):
            assert all(op.kind != "dropout" for op in record(kernel).ops)
            assert "dropout" not in kernel.name


@pytest.mark.parametrize("name", HAVE_IT)
@pytest.mark.parametrize("causal", [False, True])
def test_both_directions_drop_the_same(a100: Gpu, name: str, causal: bool) -> None:
    problem = replace(problem_of(name), direction="both", causal=causal, dropout_seed=5)
    inputs = numerics.random_inputs(problem)
    tensors = numerics.run(planned(problem, a100, name), inputs).tensors
    arguments = (problem, inputs["Q"], inputs["K"], inputs["V"], inputs["dO"])
    exact = dict(zip(("dQ", "dK", "dV"), reference.gradients(*arguments), strict=True))
    plain = dict(zip(("dQ", "dK", "dV"), reference.gradients_in(*arguments), strict=True))
    bands = dict(zip(exact, reference.gradient_bands(*arguments), strict=True))
    exact["O"], _ = reference.attention(*arguments[:4])
    plain["O"] = reference.attention_in(*arguments[:4])
    bands["O"] = reference.rounding_band(problem, exact["O"])
    for tensor, truth in exact.items():
        allowed = 2 * np.abs(plain[tensor] - truth).max() + bands[tensor]
        assert np.abs(tensors[tensor] - truth).max() <= allowed, tensor
    # Elements dropped otherwise are far outside of that.
    other = reference.gradients(replace(problem, dropout_seed=6), *arguments[1:])
    assert np.abs(tensors["dV"] - other[2]).max() > 10 * bands["dV"]


def test_wide_heads_of_xformers_drop_the_same(a100: Gpu) -> None:
    """O waits in global memory between steps."""
    problem = replace(PROBLEM, head_dim=160, seqlen_k=300)
    inputs = numerics.random_inputs(problem)
    tensors = numerics.run(planned(problem, a100, "xformers-cutlass"), inputs).tensors
    exact, _ = reference.attention(problem, *(inputs[name] for name in "QKV"))
    assert np.abs(tensors["O"] - exact).max() < 2**-8


def test_backward_by_keys_and_by_heads_drop_the_same(a100: Gpu) -> None:
    """flash-attn-1 takes either, as heads fill the GPU; the first release has only one."""
    problem = replace(problem_of("flash-attn-1"), direction="both", dtype="fp16")
    inputs = numerics.random_inputs(problem)
    chains = [planned(problem, a100, name) for name in PLAIN[:2]]
    assert [kernel.name for kernel in chains[0]] == ["flash1_forward", "flash1_backward"]
    assert "flash2_backward" in [kernel.name for kernel in chains[1]]
    first, second = (numerics.run(kernels, inputs).tensors for kernels in chains)
    for name in ("O", "dQ", "dK", "dV"):
        assert np.abs(first[name] - second[name]).max() < 2**-6 * np.abs(first[name]).max()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("flash1", Options((64, 64))),
        ("flash2", Options((64, 64))),
        ("flash-attn-0.1", None),
        ("flash-attn-1", None),
        ("xformers-cutlass", None),
    ],
)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_fused_kernels_move_no_byte_more(
    a100: Gpu, name: str, options: Options | None, direction: str
) -> None:
    dropping = replace(problem_of(name), direction=direction)
    plain = planned(replace(dropping, dropout=0.0), a100, name, options)
    assert traffic(planned(dropping, a100, name, options)).global_ == traffic(plain).global_


@pytest.mark.parametrize("name", ["standard", "pytorch", "megatron"])
def test_standard_attention_moves_five_bytes_a_score_more_each_way(a100: Gpu, name: str) -> None:
    problem = Attention(1, 2, 1024, 512, 64, direction="both", dropout=0.1)
    scores = 2 * 1024 * 512
    by_kernel = {k.kernel: k.global_ for k in traffic(planned(problem, a100, name)).kernels}
    moved = {
        kernel: {n: (a.read_bytes, a.write_bytes) for n, a in by_kernel[kernel].items()}
        for kernel in ("dropout", "dropout_gradient")
    }
    assert moved == {
        "dropout": {
            "P": (2 * scores, 0),
            "P_dropped": (0, 2 * scores),
            "dropout_mask": (0, scores),
        },
        "dropout_gradient": {
            "dP_dropped": (2 * scores, 0),
            "dropout_mask": (scores, 0),
            "dP": (0, 2 * scores),
        },
    }


@pytest.mark.parametrize(
    ("gpu", "head_dim", "causal", "tile", "warps"),
    [
        # flash_fwd_launch_template.h of v2.8.3, with dropout.
        ("a100", 32, False, (128, 128), 4),
        ("h100", 64, True, (128, 64), 4),
        ("rtx4090", 96, True, (64, 64), 4),
        ("a100", 128, False, (128, 32), 4),
        ("l40s", 128, True, (128, 32), 4),
        ("h100", 192, False, (64, 64), 4),
        ("a100", 256, False, (128, 64), 8),
    ],
)
def test_flash_attn_2_takes_the_tiles_of_its_table(
    gpu: str, head_dim: int, causal: bool, tile: tuple[int, int], warps: int
) -> None:
    problem = Attention(4, 16, 1024, 1024, head_dim, causal=causal, dropout=0.1)
    (kernel,) = planned(problem, load(gpu).gpu, "flash-attn-2")
    assert (kernel.tiles["q"], kernel.tiles["k"]) == tile
    assert kernel.mapping.warps == warps


def test_flash_attn_2_neither_splits_nor_folds_with_dropout(a100: Gpu) -> None:
    problem = Attention(1, 8, 1, 8192, 128, kv_heads=2)
    assert catalog.plan(problem, a100, implementation="flash-attn-2").num_splits > 1
    plan = catalog.plan(replace(problem, dropout=0.1), a100, implementation="flash-attn-2")
    assert (plan.schedule, plan.kernels[0].group) == ("flash2", 1)
    with pytest.raises(Refused, match="--num-splits with dropout: its split kernel has none"):
        planned(replace(problem, dropout=0.1), a100, "flash-attn-2", Options(num_splits=2))


@pytest.mark.parametrize("name", ["decode", "split_kv", "flash-attn-3", "cudnn", "triton"])
def test_kernels_without_dropout_refuse_it(name: str) -> None:
    with pytest.raises(Refused, match=r"dropout is 0\.3; it has no dropout"):
        planned(PROBLEM, load("h100").gpu, name)


def test_flash_attn_2_refuses_a_backward_that_was_not_compiled() -> None:
    problem = Attention(1, 1, 64, 64, 256, direction="backward", dropout=0.1)
    with pytest.raises(Refused, match="backward of head_dim 256 on rtx4090 has no dropout"):
        planned(problem, load("rtx4090").gpu, "flash-attn-2")


def test_numbers_are_drawn_once_a_tile(a100: Gpu) -> None:
    """dP is dropped by what P's numbers said: the second costs a compare and a select."""
    problem = replace(PROBLEM, direction="backward")
    main = next(k for k in planned(problem, a100, "flash2") if k.name == "flash2_backward")
    recorded = record(main)
    costs = [
        instruction_cost(op, recorded, masked=False)
        for op in recorded.once()
        if op.kind == "dropout"
    ]
    once = float(DROPOUT_INSTRUCTIONS)
    assert costs == [("alu", once + PHILOX_INSTRUCTIONS), ("alu", once)]


def test_it_drops_queries_x_keys_only(a100: Gpu) -> None:
    def transposed(block: Block, _: Attention) -> None:
        m_rows = block.rows("q")
        block.dropout(block.full(1.0, m_rows, block.all("d")))

    (kernel,) = planned(PROBLEM, a100, "flash2")
    with pytest.raises(ProgramError, match="dropout takes queries x keys"):
        record(replace(kernel, program=transposed))
