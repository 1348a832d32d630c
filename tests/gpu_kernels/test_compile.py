"""A small kernel compiled here, without a GPU; the cache; the process that compiles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

if os.environ.get("TRITON_INTERPRET"):
    pytest.skip("kernels are interpreted here", allow_module_level=True)

from gpu_kernels.compile.cache import cached, key_of
from gpu_kernels.compile.compiled_kernel import compile_kernel
from gpu_kernels.compile.targets import target_of
from gpu_kernels.variant import Variant
from tests.gpu_kernels.small_kernel import product_kernel

SMALL = Variant(
    name="product",
    kernel=product_kernel,
    signature={
        "A": "*fp16",
        "B": "*fp16",
        "C": "*fp32",
        "steps": "i32",
        "TILE": "constexpr",
        "STEP": "constexpr",
    },
    constants={"TILE": 64, "STEP": 32},
    num_warps=4,
    num_stages=3,
    schedule="",
    kernel_name="",
    head_dim=64,
    tile_m=64,
    tile_n=64,
    dtype="fp16",
    causal=False,
)


@pytest.mark.parametrize(
    ("arch", "opcode", "products", "tiles"),
    [("sm_80", "HMMA", (64 // 64) * (64 // 8) * (32 // 16), 2), ("sm_90", "HGMMA", 2, 3)],
)
def test_a_product_has_the_instructions_and_buffers_it_needs(
    arch: str, opcode: str, products: int, tiles: int
) -> None:
    compiled = compile_kernel(SMALL, arch)
    assert compiled.instructions[opcode] == products
    assert compiled.unroll is not None
    assert compiled.unroll % 1 == 0
    assert {(each["name"], each["count"]) for each in compiled.buffers} == {
        ("a", tiles),
        ("b", tiles),
    }
    assert compiled.buffer_bytes == 2 * tiles * 64 * 32 * 2
    assert 0 <= compiled.shared_memory_bytes - compiled.buffer_bytes < 2048
    assert compiled.spills == 0
    assert 16 < compiled.registers <= 255


def test_the_cache_knows_source_target_and_options(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, Any]:
        made.append(1)
        return {"registers": 32}

    for _ in range(2):
        assert cached(SMALL, "sm_80", make, tmp_path) == {"registers": 32}
    assert len(made) == 1
    cached(SMALL, "sm_90", make, tmp_path)
    cached(replace(SMALL, num_warps=8), "sm_80", make, tmp_path)
    assert len(made) == 3
    (tmp_path / f"{key_of(SMALL, 'sm_80')}.json").write_text('{"regis')  # cut short
    assert cached(SMALL, "sm_80", make, tmp_path) == {"registers": 32}
    assert len(made) == 4


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"arch is 'sm_8'; choose from sm_80"):
        target_of("sm_8")


def test_the_process_prints_a_line_a_kernel(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gpu_kernels.compile", "--kernel", "bandwidth-copy"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [*command, "--arch", "sm_80"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    (line,) = map(json.loads, done.stdout.splitlines())
    assert line["of"] == 1
    assert line["compiled"]["kernel"] == "bandwidth-copy"
    assert list((tmp_path / "fasim" / "kernels").glob("*.json"))
