"""Decode and split-KV: the same bytes three ways, and the answer whatever the splits."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasim.hardware import Gpu
from fasim.problem import Attention
from fasim.readings import layout, numerics
from fasim.readings.footprint import footprint
from fasim.readings.traffic import traffic
from fasim.schedules import catalog, split_kv
from fasim.schedules.language import Kernel, ProgramError, Tensor
from fasim.schedules.plan import Options
from fasim.schedules.record import record
from fasim.schedules.tiling import Tiling
from tests.readings.chains import one_buffer_each, problems, shape_of
from tests.readings.split_forms import split_kv as closed_form
from tests.readings.test_numerics import assert_right
from tests.readings.test_traffic import moved, nonzero

SIDES = st.sampled_from((16, 32, 48))
TILINGS = st.builds(
    Tiling,
    SIDES,
    SIDES,
    descending=st.booleans(),
    num_splits=st.integers(1, 8),
    pack_gqa=st.booleans(),
    page_size=st.sampled_from((0, 1, 7, 16, 20, 64)),
)


def chain(problem: Attention, tiling: Tiling) -> tuple[Kernel, ...]:
    return split_kv.kernels(problem, tiling, one_buffer_each("QKV"))


@given(problem=problems(windows=True), tiling=TILINGS)
@settings(max_examples=200, deadline=None)
def test_traffic_numerics_and_closed_form_agree_byte_for_byte(
    problem: Attention, tiling: Tiling
) -> None:
    kernels = chain(problem, tiling)
    predicted = traffic(kernels).kernels
    run = numerics.run(kernels, numerics.random_inputs(problem))
    expected = closed_form(
        shape_of(problem),
        tiling.tile_m,
        tiling.tile_n,
        tiling.num_splits,
        tiling.pack_gqa,
        tiling.page_size,
    )
    assert [kernel.kernel for kernel in predicted] == [kernel.kernel for kernel in expected]
    for kernel, level, flops, closed in zip(
        predicted, run.kernels, run.tensor_flops, expected, strict=True
    ):
        assert moved(kernel.global_) == nonzero(closed.global_) == moved(level)
        assert moved(kernel.compulsory) == nonzero(closed.compulsory)
        assert kernel.flops.tensor == closed.executed_flops == flops
        assert kernel.flops.tensor_useful == closed.useful_flops


@given(problem=problems(("fp32", "fp16", "bf16"), (8, 40, 64), windows=True), tiling=TILINGS)
@settings(max_examples=80, deadline=None)
def test_the_answer_is_right_however_the_keys_are_dealt_out(
    problem: Attention, tiling: Tiling
) -> None:
    assert_right(problem, chain(problem, tiling), numerics.random_inputs(problem))


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "fp8"])
@pytest.mark.parametrize("causal", [False, True])
def test_large_scores_overflow_nothing(dtype: str, causal: bool) -> None:
    problem = Attention(1, 4, 3, 200, 64, 2, dtype, causal)
    tiling = Tiling(16, 32, num_splits=3, pack_gqa=True, page_size=16)
    assert_right(problem, chain(problem, tiling), numerics.random_inputs(problem, size=83.0))


def test_rows_that_see_nothing_survive_empty_splits() -> None:
    problem = Attention(1, 2, 40, 20, 32, causal=True)
    tensors = assert_right(
        problem,
        chain(problem, Tiling(16, 16, num_splits=5)),
        numerics.random_inputs(problem),
    )
    assert (tensors["O"][:, :, :20] == 0).all()
    assert (tensors["LSE"][:, :, :20] == -np.inf).all()
    assert (tensors["LSE_partial"][:, 2:] == -np.inf).all()  # two tiles of keys, five splits


def test_one_split_is_decode_to_the_bit_and_pages_move_no_bit() -> None:
    problem = Attention(2, 4, 1, 150, 64, 2)
    inputs = numerics.random_inputs(problem)

    def output(**options: object) -> np.ndarray:
        kernels = chain(problem, Tiling(16, 32, **options))  # type: ignore[arg-type]
        return numerics.run(kernels, inputs).tensors["O"]

    for splits in (1, 3):
        contiguous = output(num_splits=splits)
        for page_size in (1, 16, 64):
            np.testing.assert_array_equal(
                contiguous, output(num_splits=splits, page_size=page_size)
            )
        packed = output(num_splits=splits, pack_gqa=True)
        np.testing.assert_allclose(contiguous, packed, atol=2e-3)  # sums in another order


def test_a_table_that_names_another_sequences_pages_is_noticed() -> None:
    problem = Attention(2, 1, 1, 64, 32)
    kernels = chain(problem, Tiling(16, 16, page_size=16))
    inputs = numerics.random_inputs(problem)
    right = numerics.run(kernels, inputs).tensors
    table = right["page_table"].astype(int)
    pool = right["K"]
    for sequence in range(2):
        gathered = pool[table[sequence], 0].reshape(64, 32)
        np.testing.assert_array_equal(gathered, inputs["K"][sequence, 0])
    assert not np.array_equal(np.sort(table.ravel()), table.ravel())


def test_folding_heads_into_rows_puts_a_querys_heads_next_to_each_other() -> None:
    tensor = Tensor("LSE", ("batch", "kv_head", "q"), "fp32")
    values = np.arange(6, dtype=np.float32).reshape(1, 2, 3)  # two heads, three queries
    folded = layout.fold(tensor, values, 2)
    np.testing.assert_array_equal(folded, [[[0, 3, 1, 4, 2, 5]]])
    np.testing.assert_array_equal(layout.unfold(tensor, folded, 2), values)


@pytest.mark.parametrize(("packed", "times"), [(False, 8), (True, 1)])
@pytest.mark.parametrize("splits", [1, 5])
def test_the_cache_is_read_once_a_query_head_or_once_if_packed(
    a100: Gpu, packed: bool, times: int, splits: int
) -> None:
    problem = Attention(2, 32, 1, 10_000, 128, 4)
    cache = 2 * 2 * 4 * 10_000 * 128 * 2
    options = Options(pack_gqa=packed, num_splits=splits)
    kernels = catalog.plan(problem, a100, "split_kv", options=options).kernels
    level = traffic(kernels).global_
    assert level["K"].read_bytes + level["V"].read_bytes == times * cache
    if splits > 1:
        rows = 2 * 32 * splits
        assert level["O_partial"].write_bytes == level["O_partial"].read_bytes == rows * 4 * 128
        assert level["LSE_partial"].write_bytes == rows * 4


def test_writing_the_new_tokens_moves_them_twice(a100: Gpu) -> None:
    problem = Attention(3, 8, 5, 100, 64, 2, causal=True)
    kernels = catalog.plan(
        problem, a100, implementation="flash-attn-2", options=Options(page_size=16, writes_kv=True)
    ).kernels
    assert kernels[0].name == "write_cache"
    assert kernels[0].blocks == 3 * 5  # a block a token
    tokens = 3 * 5 * 2 * 64 * 2
    expected = {
        f"{name}_{part}": (tokens, 0) if part == "new" else (0, tokens)
        for name in "KV"
        for part in ("new", "cached")
    }
    inputs = numerics.random_inputs(problem)
    assert moved(traffic(kernels).kernels[0].global_) == expected
    assert moved(numerics.run(kernels, inputs).kernels[0]) == expected
    assert_right(problem, kernels, inputs)


@pytest.mark.parametrize(
    ("batch", "kv_heads", "folded", "apart"),
    [(3, 2, True, True), (1, 2, True, False), (3, 1, True, False), (3, 8, False, False)],
)
@pytest.mark.parametrize("keys", [40, 900])
def test_a_server_copies_results_and_rows_that_are_no_view(
    a100: Gpu, batch: int, kv_heads: int, folded: bool, apart: bool, keys: int
) -> None:
    """Q goes to (batch · group, kv_heads, d), a view of one sequence or of one key/value head.

    O comes back into the caller's tensor in any case; LSE of one split is put in order.
    """
    problem = Attention(batch, 8, 1, keys, 64, kv_heads)
    options = Options(page_size=16, writes_kv=True)
    kernels = catalog.plan(problem, a100, implementation="flash-attn-2", options=options).kernels
    names = [kernel.name for kernel in kernels]
    split = folded and keys == 900
    expected = ["copy_Q"] * apart + (["split_kv", "combine"] if split else ["decode"])
    expected += ["copy_O_rows"] * folded + ["copy_LSE_rows"] * (apart and not split)
    assert names == ["write_cache", *expected]
    inputs = numerics.random_inputs(problem)
    levels = dict(zip(names, traffic(kernels).kernels, strict=True))
    ran = dict(zip(names, numerics.run(kernels, inputs).kernels, strict=True))
    assert {name: moved(level.global_) for name, level in levels.items()} == {
        name: moved(level) for name, level in ran.items()
    }
    rows = batch * 8 * 64 * 2
    forms = {
        "copy_Q": {"Q": (rows, 0), "Q_rows": (0, rows)},
        "copy_O_rows": {"O_rows": (rows, 0), "O": (0, rows)},
        "copy_LSE_rows": {"LSE_rows": (batch * 8 * 4, 0), "LSE": (0, batch * 8 * 4)},
    }
    for name, form in forms.items():
        assert name not in ran or moved(ran[name]) == form
    assert_right(problem, kernels, inputs)


def test_a_server_splits_keys_only_where_it_folds_heads(a100: Gpu) -> None:
    """`mha_varlen_fwd` asks the heuristic for folded heads alone; `mha_fwd_kvcache` always."""
    problem = Attention(1, 16, 256, 4096, 128, 2, causal=True)
    for writes_kv, names in ((True, ["write_cache", "decode"]), (None, ["split_kv", "combine"])):
        options = Options(page_size=16, writes_kv=writes_kv)
        plan = catalog.plan(problem, a100, implementation="flash-attn-2", options=options)
        assert [kernel.name for kernel in plan.kernels] == names


def test_memory_holds_whole_pages_and_the_partials(a100: Gpu) -> None:
    problem = Attention(2, 8, 1, 1000, 64, 2)
    options = Options(num_splits=3, page_size=256)
    sizes = footprint(catalog.plan(problem, a100, "split_kv", options=options).kernels).by_tensor
    assert sizes["K"] == 2 * 2 * 1024 * 64 * 2
    assert sizes["page_table"] == 2 * 4 * 4
    assert sizes["O_partial"] == 3 * 2 * 8 * 64 * 4


def test_a_paged_tensor_is_not_loaded_without_its_table() -> None:
    problem = Attention(1, 1, 1, 64, 32)
    paged, plain = (chain(problem, Tiling(16, 16, page_size=size))[0] for size in (16, 0))
    with pytest.raises(ProgramError, match="in pages or is contiguous"):
        record(replace(paged, program=plain.program))
    with pytest.raises(ProgramError, match="no tensor of kernel decode lies in pages"):
        record(replace(plain, program=paged.program, tensors=(*plain.tensors, paged.tensors[3])))
