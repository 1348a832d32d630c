"""The key/value cache of a model."""

import pytest

from fasim.hardware import load
from fasim.problem import ProblemError
from fasim.report.kv_cache import kv_cache_text
from fasim.verbs.kv_cache import kv_cache, kv_cache_bytes

LLAMA_3_8B = {"layers": 32, "kv_heads": 8, "head_dim": 128}


def test_keys_and_values_of_every_token() -> None:
    assert kv_cache_bytes(**LLAMA_3_8B, batch=16, seqlen=8192, dtype="fp16") == 16 * 2**30
    assert kv_cache_bytes(**LLAMA_3_8B, batch=1, seqlen=1, dtype="fp8") == 2 * 32 * 8 * 128


def test_a_gpu_holds_it_or_not() -> None:
    profile = load("a100")
    held = kv_cache(**LLAMA_3_8B, batch=1, seqlen=1, profile=profile)
    assert (held.per_token_bytes, held.fits) == (128 * 1024, True)
    assert held.max_tokens == profile.gpu.dram.capacity_bytes // (128 * 1024)
    most = kv_cache(**LLAMA_3_8B, batch=1, seqlen=held.max_tokens, profile=profile)
    over = kv_cache(**LLAMA_3_8B, batch=1, seqlen=held.max_tokens + 1, profile=profile)
    assert (most.fits, over.fits) == (True, False)
    assert "does not fit" in kv_cache_text(over)
    assert kv_cache(**LLAMA_3_8B, batch=1, seqlen=1).fits is None


@pytest.mark.parametrize(
    ("change", "said"), [({"layers": 0}, "layers is 0"), ({"dtype": "int4"}, "dtype is 'int4'")]
)
def test_what_no_model_has_is_refused(change: dict[str, object], said: str) -> None:
    model = {**LLAMA_3_8B, "batch": 1, "seqlen": 1, **change}
    with pytest.raises(ProblemError, match=said):
        kv_cache(**model)  # type: ignore[arg-type]
