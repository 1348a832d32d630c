"""The project's own standard attention, decode and split-KV as implementations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fasim.hardware import Gpu
from fasim.problem import Attention
from fasim.readings.traffic import traffic
from fasim.schedules import catalog
from fasim.schedules.implementations.gpu_kernels_decode import num_splits
from fasim.schedules.plan import Options, Plan, Refused

TRAINING = Attention(1, 4, 512, 512, 64, 2, causal=True, direction="both")
DECODING = Attention(1, 32, 1, 16384, 128, 8, causal=True)


def planned(name: str, problem: Attention, gpu: Gpu, options: Options | None = None) -> Plan:
    return catalog.plan(problem, gpu, implementation=name, options=options)


@pytest.mark.parametrize(
    ("name", "problem", "options"),
    [
        ("gpu-kernels-standard", TRAINING, Options(tile=(128, 128))),
        ("gpu-kernels-standard", replace(TRAINING, dropout=0.1), Options(tile=(128, 128))),
        ("gpu-kernels-decode", DECODING, Options(tile=(16, 64))),
        ("gpu-kernels-split-kv", DECODING, Options(tile=(16, 64), num_splits=6)),
    ],
)
def test_it_moves_the_bytes_of_its_schedule(
    name: str, problem: Attention, options: Options, a100: Gpu
) -> None:
    own = planned(name, problem, a100, options)
    textbook = catalog.plan(problem, a100, own.schedule, options=options)
    bytes_of = [{k.kernel: k.global_ for k in traffic(p.kernels).kernels} for p in (own, textbook)]
    assert bytes_of[0] == bytes_of[1]


def test_keys_are_split_until_every_sm_has_two_blocks(a100: Gpu) -> None:
    assert a100.sm_count == 108
    own = planned("gpu-kernels-split-kv", DECODING, a100)
    assert own.num_splits == num_splits(DECODING, 108) == 27
    assert own.assumptions == ("27 splits of the keys, by two blocks an SM",)
    assert own.kernels[0].grid == ("split", "q", "kv_head", "batch")
    assert planned("gpu-kernels-split-kv", replace(DECODING, seqlen_k=1024), a100).num_splits == 4
    asked = planned("gpu-kernels-split-kv", DECODING, a100, Options(num_splits=2))
    assert asked.assumptions == ("2 splits of the keys, by --num-splits",)
    (whole,) = planned("gpu-kernels-split-kv", replace(DECODING, batch=64), a100).kernels
    assert whole.name == "decode"


@pytest.mark.parametrize(
    ("name", "problem", "options", "said"),
    [
        ("gpu-kernels-standard", replace(TRAINING, head_dim=40), None, "head_dim 16, 32, 64"),
        ("gpu-kernels-standard", replace(TRAINING, dtype="fp32"), None, "fp16 and bf16, not fp32"),
        ("gpu-kernels-decode", replace(DECODING, direction="both"), None, "it runs forward"),
        ("gpu-kernels-decode", DECODING, Options(num_splits=2), "takes no --num-splits"),
        ("gpu-kernels-split-kv", DECODING, Options(page_size=16), "takes no --page-size"),
    ],
)
def test_what_it_does_not_take_is_refused_in_a_line(
    name: str, problem: Attention, options: Options | None, said: str, a100: Gpu
) -> None:
    with pytest.raises(Refused, match=said) as refused:
        planned(name, problem, a100, options)
    assert "\n" not in str(refused.value)


def test_decoders_are_compared_where_it_is_decoding() -> None:
    own = {"gpu-kernels-decode", "gpu-kernels-split-kv"}
    assert own <= set(catalog.usual_implementations(DECODING))
    assert not own & set(catalog.usual_implementations(TRAINING))
