"""What the recorder makes of a program: operations, loops, and what a loop carries."""

import subprocess
import sys

from fasim.hardware import Gpu
from fasim.problem import Attention
from fasim.schedules import catalog
from fasim.schedules.plan import Options
from fasim.schedules.record import Record, cached_record, record

PROBLEM = Attention(1, 2, 300, 200, 40, kv_heads=1, causal=True)


def recorded(gpu: Gpu, schedule: str, kernel: int = 0) -> Record:
    return record(catalog.plan(PROBLEM, gpu, schedule, options=Options((64, 32))).kernels[kernel])


def test_flash2_reads_as_the_paper_does(a100: Gpu) -> None:
    flash2 = recorded(a100, "flash2")
    named = [(op.kind, op.name, op.path) for op in flash2.once() if op.name]
    assert named == [
        ("load", "Q", ()),
        ("load", "K", (0,)),
        ("load", "V", (0,)),
        ("matmul", "S", (0,)),
        ("matmul", "O", (0,)),
        ("store", "O", ()),
        ("store", "LSE", ()),
    ]
    kinds = [op.kind for op in flash2.once()]
    assert [kinds.count(kind) for kind in ("mask", "exp2", "row_max", "row_sum", "log2")] == [
        *(1, 2, 1, 1, 1)
    ]


def test_a_loop_body_is_recorded_twice_and_once_gives_the_first(a100: Gpu) -> None:
    flash2 = recorded(a100, "flash2")
    inside = [op for op in flash2.ops if op.path]
    first = [op.kind for op in inside if op.iteration == 0]
    second = [op.kind for op in inside if op.iteration == 1]
    assert first == second
    assert [op.kind for op in flash2.once() if op.path] == first


def test_what_the_second_pass_takes_from_the_first_is_carried(a100: Gpu) -> None:
    flash2 = recorded(a100, "flash2")
    carried = {
        flash2.ops[source].kind
        for op in flash2.ops
        if op.iteration == 1
        for source in op.inputs
        if flash2.ops[source].path and flash2.ops[source].iteration == 0
    }
    assert carried == {"maximum", "add", "matmul"}  # row_max, row_sum and the accumulator


def test_shapes_are_those_of_full_tiles(a100: Gpu) -> None:
    ops = {(op.kind, op.name): op for op in recorded(a100, "flash2").once()}
    assert ops["load", "Q"].shape == (64, 40)
    assert ops["load", "K"].axes == ("k", "d")
    product = ops["matmul", "S"]
    assert (product.shape, product.axes) == ((64, 32), ("q", "k"))
    assert (product.contraction, product.contracted_axis) == (40, "d")
    assert product.elements == 64 * 32
    assert ops["store", "LSE"].shape == (64, 1)
    assert ops["store", "O"].dtype == "fp16"


def test_a_load_happens_where_it_is_first_used(a100: Gpu) -> None:
    loads = {op.name: op for op in recorded(a100, "flash2").once() if op.kind == "load"}
    assert (loads["Q"].path, loads["Q"].used_in) == ((), (0,))
    assert (loads["K"].path, loads["K"].used_in) == ((0,), (0,))


def test_inner_loops_keep_their_number_in_both_passes(a100: Gpu) -> None:
    flash1 = recorded(a100, "flash1")
    assert [(loop.number, loop.axis, loop.parent) for loop in flash1.loops] == [
        (0, "q", ()),
        (1, "k", ()),
        (2, "q", (1,)),
    ]
    assert flash1.loops[2].seen_from is not None
    assert flash1.loops[2].seen_from.owner == 1


def test_a_kernel_is_recorded_once(a100: Gpu) -> None:
    (kernel,) = catalog.plan(PROBLEM, a100, "flash2").kernels
    assert cached_record(kernel) is cached_record(kernel)


def test_schedules_need_the_standard_library_only() -> None:
    """Kernels and tables import them where nothing else is installed."""
    program = """
import sys
for name in ("numpy", "simpy", "pydantic", "yaml", "typer", "torch", "triton"):
    sys.modules[name] = None  # importing it raises ImportError
import importlib, pkgutil
import fasim.problem, fasim.schedules
for module in pkgutil.walk_packages(fasim.schedules.__path__, "fasim.schedules."):
    importlib.import_module(module.name)
print(*sorted(n for n in sys.modules if n.startswith("fasim.") and n.count(".") == 1))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["fasim.operators", "fasim.problem", "fasim.schedules"]
