"""What is compiled ahead of time: every kernel, with the tile of the plan that it mirrors."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from fasim.hardware import load
from fasim.problem import Attention
from fasim.schedules import catalog as schedules
from fasim.verbs.kernels.validate_kernels import GPUS

DECODES = ("gpu-kernels-decode", "gpu-kernels-split-kv")
MULTIPLY = ("flash2_forward", "key_value_pass", "query_pass", "decode", "split_kv")


@pytest.fixture(scope="module")
def catalog() -> ModuleType:
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    return importlib.import_module("gpu_kernels.catalog")


@pytest.mark.parametrize("arch", GPUS)
def test_arguments_are_the_kernel_s(catalog: ModuleType, arch: str) -> None:
    variants = catalog.variants(arch)
    keys = [(v.name, v.head_dim, v.dtype, v.causal) for v in variants]
    assert len(set(keys)) == len(keys)
    for variant in variants:
        assert list(variant.signature) == list(variant.kernel.arg_names)
        fixed = {name for name, kind in variant.signature.items() if kind == "constexpr"}
        assert fixed == set(variant.constants)
        pointers = [kind for kind in variant.signature.values() if kind.startswith("*")]
        assert pointers, variant.name
        assert "GPU" not in variant.schedule


def test_both_head_dims_masks_and_dtypes(catalog: ModuleType) -> None:
    for name in ("forward", "backward-dkdv", "backward-dq"):
        found = {
            (v.head_dim, v.causal, v.dtype) for v in catalog.variants("sm_80") if v.name == name
        }
        assert len(found) == 8


@pytest.mark.parametrize("arch", GPUS)
def test_each_mirrors_a_kernel_of_a_plan(catalog: ModuleType, arch: str) -> None:
    gpu = load(GPUS[arch]).gpu
    for variant in catalog.variants(arch):
        if not variant.schedule:
            continue
        implementation = variant.schedule in schedules.IMPLEMENTATIONS
        standard = variant.schedule == "gpu-kernels-standard"
        forward_only = variant.schedule in DECODES or variant.schedule.startswith("softmax-")
        problem = Attention(
            1,
            4,
            4096,
            4096,
            variant.head_dim,
            1,
            variant.dtype,
            variant.causal,
            "forward" if forward_only else "both",
            dropout=0.1 if standard else 0.0,
        )
        planned = schedules.plan(
            problem,
            gpu,
            None if implementation else variant.schedule,
            variant.schedule if implementation else None,
        )
        kernels = {kernel.name: kernel for kernel in planned.kernels}
        kernel = kernels[variant.kernel_name]
        if variant.kernel_name in MULTIPLY:
            assert (kernel.tiles["q"], kernel.tiles["k"]) == (variant.tile_m, variant.tile_n)
