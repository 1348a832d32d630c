"""One iteration of a compiled main loop as the stream one warp issues.

Each instruction goes to the pipe that executes it, at the GPU's rates and latencies. What it waits
for is in the machine code (`compiled_needs.py`). Operands are taken to be read as an instruction
issues, so that registers are free to be written again.
"""

from __future__ import annotations

import re
from math import ceil
from typing import TYPE_CHECKING

from fasim.hardware.gpu import WARP
from fasim.problem import TENSOR_DTYPE
from fasim.schedules.compiled_loop import CompiledLoop, Instruction
from fasim.simulator.compiled_needs import needs_of
from fasim.simulator.lowering.exchange import SHUFFLE_BYTES
from fasim.simulator.lowering.products import WGMMA_QUEUE, WGMMA_WAIT_CYCLES
from fasim.simulator.stream import Item, Stream

if TYPE_CHECKING:
    from fasim.hardware import Gpu

# IMAD, integer multiply-add, runs on the multipliers of the FP32 lanes; compilers move registers
# and add by it to spare the other pipe.
_FP32 = frozenset({"FFMA", "FMUL", "FADD", "IMAD"})
_ALU = frozenset(
    {"F2FP", "FMNMX", "FSEL", "FSETP", "IADD3", "ISETP", "LEA", "LOP3", "MOV", "PLOP3", "PRMT"}
    | {"SEL", "SHF", "VIADD"}
)
# These take an issue slot, and no pipe kept here; so does the uniform datapath (U…).
_SLOT = frozenset({"BRA", "CALL", "LDGDEPBAR", "MEMBAR", "NOP", "WARPGROUP"})
_MATRIX_BYTES = 128  # of one 8 × 8 matrix of two bytes: LDSM reads one, two or four
_WGMMA = re.compile(r"\.64x(\d+)x(\d+)\.")


def compiled_stream(loop, gpu, loaded_bytes, late_cycles=0.0):
    items=[_item(loop, n, gpu, late_cycles, loaded_bytes, needs) for n, needs in enumerate(needs_of(loop.instructions))]
    return Stream(tuple(_with_fills(items, loop, gpu)), max(1, ceil(loop.warps / gpu.sm.schedulers)))


def _item(loop, n, gpu, late, loaded_bytes, needs):
    each = loop.instructions[n]
    name = each.name
    if not each.runs or name in _SLOT and "DEPBAR" not in each.opcode or name.startswith("U"):
        return Item("alu", 1, 0, gpu.alu.latency_cycles if each.written else 0, needs, name=name)
    if name == "FENCE":
        return Item("alu", 1, 0, gpu.shared_memory.latency_cycles, needs, name=name)
    if "DEPBAR" in each.opcode and name != "LDGDEPBAR":
        return Item("wait", 1, 0, 0, needs, cause="l2" if name == "DEPBAR" else "tensor", name="wait")
    if name == "LDGDEPBAR":
        return Item("alu", 1, 0, 0, needs, name=name)
    if name == "BAR":
        return Item("barrier", 1, 0, 0, needs)
    for pipe, lanes, names in (("fp32", gpu.fp32, _FP32), ("alu", gpu.alu, _ALU), ("sfu", gpu.sfu, {"MUFU"})):
        if name in names:
            return Item(pipe, 1, max(1, round(WARP * gpu.sm.schedulers / lanes.lanes)), lanes.latency_cycles, needs, name=name)
    if name == "HMMA":
        return Item("tensor", 1, round(gpu.warp_instruction_cycles("mma_sync", TENSOR_DTYPE[loop.dtype])), gpu.tensor_core.latency_cycles, needs, name=name)
    if name == "HGMMA":
        cols, k = map(int, _WGMMA.search(each.opcode).groups())
        rate = gpu.tensor_core.flops_per_clock[TENSOR_DTYPE[loop.dtype]]
        tensor = 2 * 64 * cols * k / rate
        left = any(r.startswith("R") and r not in each.written for r in each.read)
        shared = ((0 if left else 64) + cols) * k * 2 / gpu.shared_memory.bytes_per_clock
        return Item("tensor", 1, round(max(tensor, shared)), WGMMA_WAIT_CYCLES if each.groups else 0, needs, asynchronous=True, name=name)
    share = gpu.shared_memory.bytes_per_clock / gpu.sm.schedulers
    if name == "LDSM":
        b = _MATRIX_BYTES * len(each.written)
    elif name in ("LDS", "SHFL"):
        b = SHUFFLE_BYTES
    elif name == "LDGSTS":
        b = copy_bytes(loop, each, loaded_bytes)
        return Item("copy", 1, max(1, round(b / (gpu.l2.read_bytes_per_clock_per_sm / gpu.sm.schedulers))), gpu.l2.latency_cycles + round(late), needs, asynchronous=True, cause="l2", name=name)
    else:
        raise ValueError(each.opcode)
    return Item("shared_memory", 1, round(b / share), gpu.shared_memory.latency_cycles, needs, name=name)

def copy_bytes(loop, each, loaded_bytes):
    if not each.guard:
        return 512
    whole = sum(512 for e in loop.instructions if e.name=="LDGSTS" and not e.guard)
    n = sum(1 for e in loop.instructions if e.name=="LDGSTS" and e.guard)
    return (loaded_bytes/loop.warps - whole)/n

def _with_fills(items, loop, gpu):
    T=[n for n,i in enumerate(items) if i.pipe=="tensor"]
    fills=sum(1 for e in loop.instructions if e.name=="LDGSTS" and not e.guard)
    at={T[len(T)*f//fills]:0 for f in range(fills)}
    from collections import Counter
    at=Counter(T[len(T)*f//fills] for f in range(fills))
    place=[];out=[]
    share = gpu.shared_memory.bytes_per_clock / gpu.sm.schedulers
    for n,i in enumerate(items):
        place.append(len(out)); out.append(i)
        for _ in range(at[n]):
            out.append(Item("shared_memory",1,round(512/share),gpu.shared_memory.latency_cycles,(),asynchronous=True,name="fill"))
    from dataclasses import replace
    return [replace(i,needs=tuple((place[p],b) for p,b in i.needs)) for i in out]
