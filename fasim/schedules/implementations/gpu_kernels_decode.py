"""Decode and split-KV of `gpu_kernels`: a group's query heads are rows of one tile, keys ascend."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fasim.problem import Attention
from fasim.schedules import split_kv
from fasim.schedules.implementations import flash_attn_2_split, triton
from fasim.schedules.implementations.gpu_kernels import SOURCE
from fasim.schedules.implementations.triton import Pick, buffers
from fasim.schedules.language import Kernel
from fasim.schedules.mapping import Mapping
from fasim.schedules.plan import Entry, Options, Plan, check_forward
from fasim.schedules.split_kv import splits_said
from fasim.schedules.tiling import Tiling

if TYPE_CHECKING:
    from fasim.hardware import Gpu

# Few rows, a fragment of the tensor core high, on every architecture.
PICK = Pick(16, 64, 4, 3)
BLOCKS_PER_SM = 2  # blocks that split keys until so many are there, Flash-Decoding's aim
KEYS_PER_SPLIT = 4 * PICK.tile_n  # at least


def num_splits(problem: Attention, sm_count: int) -> int:
    """Parts of the keys that give every SM its blocks; at least four tiles each."""
    blocks = problem.batch * problem.kv_heads
    most = max(1, problem.seqlen_k // KEYS_PER_SPLIT)
    return max(1, min(most, -(-BLOCKS_PER_SM * sm_count // blocks)))


def mapping(gpu: Gpu) -> Mapping:
    """Rows fill one fragment, and warps share columns.

    Neither wgmma nor tcgen05 takes so few rows. P lies spread over the warps that PV needs it
    from, and passes through shared memory.
    """
    ahead = buffers(gpu, PICK.stages, from_shared=False)
    return Mapping(
        PICK.warps,
        buffers=(("Q", 1), ("K", ahead), ("V", ahead)),
        warp_grid=(1, PICK.warps),
        sums_every_step=True,
        source=SOURCE,
    )


def _launched(kernel: Kernel) -> Kernel:
    """In the order of its blocks: splits, row tiles, heads, batch."""
    if kernel.name == "combine":
        return kernel
    splits = ("split",) if kernel.name == "split_kv" else ()
    return replace(kernel, grid=(*splits, "q", "kv_head", "batch"))


def _plan(entry: Entry, problem: Attention, gpu: Gpu, options: Options, splits: int) -> Plan:
    tile = options.tile or (PICK.tile_m, PICK.tile_n)
    tiling = Tiling(*tile, num_splits=splits, pack_gqa=True)
    rows = flash_attn_2_split.combine_rows(problem.head_dim)
    chain = split_kv.kernels(problem, tiling, mapping(gpu), rows)
    return Plan(entry.schedule, entry.name, tuple(_launched(kernel) for kernel in chain), tile)


def _decode(problem: Attention, gpu: Gpu, options: Options) -> Plan:
    return _plan(DECODE, problem, gpu, options, splits=1)


def _split_kv(problem: Attention, gpu: Gpu, options: Options) -> Plan:
    splits = options.num_splits or num_splits(problem, gpu.sm_count)
    plan = _plan(SPLIT_KV, problem, gpu, options, splits)
    return replace(
        plan, assumptions=(splits_said(splits, options.num_splits is None, "two blocks an SM"),)
    )


def _check(problem: Attention, gpu: Gpu) -> str | None:
    return triton.check(problem, gpu) or check_forward(problem, gpu)


DECODE = Entry(
    name="gpu-kernels-decode",
    schedule="decode",
    title="fasim's own decode in Triton: a block a batch and key/value head, over all keys",
    source=SOURCE,
    needs="fp16 or bf16, head_dim 16, 32, 64 or 128; forward",
    build=_decode,
    check=_check,
    decodes=True,
)
SPLIT_KV = Entry(
    name="gpu-kernels-split-kv",
    schedule="split_kv",
    title="fasim's own split-KV in Triton: keys dealt to two blocks an SM, then combined",
    source=SOURCE,
    needs="as gpu-kernels-decode; device memory for an FP32 O and LSE a split",
    build=_split_kv,
    check=_check,
    takes=("tile", "num_splits"),
    decodes=True,
)
