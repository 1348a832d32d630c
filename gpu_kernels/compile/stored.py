"""Main loops as they were compiled, kept in `gpu_kernels/compiled/` for simulating them elsewhere.

`python -m gpu_kernels.compile --store` writes them anew: of attention's kernels with the tiles of
the tables, without a mask, in fp16. A file holds one loop, an instruction a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gpu_kernels
from gpu_kernels import backward, forward
from gpu_kernels.compile.ahead_of_time import Binary, compile_variant
from gpu_kernels.compile.main_loop import main_loop
from gpu_kernels.compile.products import tensor_instructions
from gpu_kernels.compile.registers import written_and_read
from gpu_kernels.compile.sass import Instruction, function_of
from gpu_kernels.compile.targets import CAPABILITIES
from gpu_kernels.compile.toolchain import disassemble, toolchain_version
from gpu_kernels.variant import Variant

FOLDER = Path(gpu_kernels.__file__).with_name("compiled")
ARCHITECTURES = ("sm_80", "sm_89", "sm_90")
KERNELS = ("flash2_forward", "key_value_pass", "query_pass")
DTYPE = "fp16"
#: What a line says of an instruction.
COLUMNS = (
    *("opcode", "guard", "written", "read"),
    *("stall_cycles", "sets", "releases", "awaits", "groups"),
)
_GROUPED = frozenset({"DEPBAR", "WARPGROUP"})  # all their operands are about groups
_COMMITS = "gsb0"


def stored_variants() -> Iterator[tuple[Variant, str]]:
    """Every variant whose loop is kept, and the architecture."""
    for arch in ARCHITECTURES:
        for variant in (*forward.variants(arch), *backward.variants(arch)):
            if variant.kernel_name in KERNELS and variant.dtype == DTYPE and not variant.causal:
                yield variant, arch


def file_of(variant: Variant, arch: str) -> str:
    """The name of a loop's file."""
    return f"{variant.kernel_name}-d{variant.head_dim}-{arch}.json"


def loop_of(variant: Variant, arch: str, binary: Binary) -> dict[str, Any]:
    """One loop as its file has it.

    Raises:
        ValueError: the compiler has unrolled it: one of its iterations is several of the source's.
    """
    sass, _ = disassemble(binary.cubin)
    loop = main_loop(function_of(sass, binary.function))
    code = loop.own if loop else ()
    products = sum(each.is_tensor for each in code)
    if products != tensor_instructions(binary.ttgir):
        raise ValueError(
            f"{variant.kernel_name} on {arch}: the loop holds {products} tensor instructions, an "
            f"iteration of the source {tensor_instructions(binary.ttgir)}"
        )
    return {
        "implementation": variant.schedule,
        "kernel": variant.kernel_name,
        "arch": arch,
        "toolchain": toolchain_version(CAPABILITIES[arch]),
        "head_dim": variant.head_dim,
        "tile": [variant.tile_m, variant.tile_n],
        "warps": variant.num_warps,
        "stages": variant.num_stages,
        "dtype": variant.dtype,
        "columns": COLUMNS,
        "instructions": [_row(each) for each in code],
    }


def text_of(loop: dict[str, Any]) -> str:
    """JSON with an instruction a line."""
    facts = {name: value for name, value in loop.items() if name != "instructions"}
    head = json.dumps(facts, indent=1).removesuffix("\n}")
    rows = ",\n".join(json.dumps(row) for row in loop["instructions"])
    return f'{head},\n "instructions": [\n{rows}\n]}}\n'


def store(folder: Path = FOLDER, archs: Sequence[str] = ARCHITECTURES) -> Iterator[Path]:
    """Compiles and writes every loop of these architectures; yields the files as they come."""
    folder.mkdir(exist_ok=True)
    for variant, arch in stored_variants():
        if arch in archs:
            file = folder / file_of(variant, arch)
            loop = loop_of(variant, arch, compile_variant(variant, arch))
            file.write_text(text_of(loop), encoding="utf-8")
            yield file


def _row(each: Instruction) -> list[Any]:
    written, read = written_and_read(each)
    control = each.control
    return [
        each.opcode,
        each.predicate,
        " ".join(written),
        " ".join(read),
        control.stall_cycles,
        control.sets,
        control.releases,
        "".join(map(str, control.awaits)),
        _groups(each),
    ]


def _groups(each: Instruction) -> str:
    """What it says of groups of asynchronous work: which it waits for, or that it ends one."""
    if each.name in _GROUPED:
        return each.operands
    return _COMMITS if each.is_tensor and _COMMITS in each.operands else ""
