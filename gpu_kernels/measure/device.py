"""Everything that is done to the GPU besides launching kernels: memory, events, graphs, L2."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import torch

from gpu_kernels.measure.environment import Environment

Function = Callable[[], object]

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
FLUSHED_SETS = 4  # L2 capacities of other data, read to flush it; its replacement is no true LRU
CYCLES_PER_MS = 2_000_000  # of a sleeping kernel: at least a millisecond up to 2 GHz


class DeviceLost(Exception):
    """The GPU answers no more; the message says how that showed."""


class Device:
    """The first GPU.

    Args:
        where: another device, for tests.
    """

    def __init__(self, environment: Environment, where: str = "cuda:0") -> None:
        self.environment = environment
        self.where = torch.device(where)
        self._other: torch.Tensor | None = None

    def normal(self, name: str, shape: tuple[int, ...], dtype: str = "fp32") -> torch.Tensor:
        """Normally distributed values, always the same under one name."""
        generator = torch.Generator(self.where)
        generator.manual_seed(zlib.crc32(name.encode()))
        return torch.randn(shape, generator=generator, device=self.where, dtype=DTYPES[dtype])

    def synchronize(self) -> None:
        """Waits for everything.

        Raises:
            DeviceLost: an error of the GPU that stays.
        """
        try:
            torch.cuda.synchronize(self.where)
        except RuntimeError as fault:
            raise DeviceLost(str(fault).splitlines()[0]) from fault

    def release(self) -> None:
        """Gives free memory back, so that the next problem has all of it."""
        torch.cuda.empty_cache()

    def flush_l2(self) -> None:
        """Fills L2 with other data by reading it: lines that were written would cost writes."""
        if self._other is None:
            elements = FLUSHED_SETS * self.environment.l2_bytes // 4
            self._other = self.normal("other data", (elements,))
        self._other.sum()

    def events_ms(
        self, function: Function, calls: int, *, flush: bool = False, head_start_ms: float = 0.0
    ) -> float:
        """Time between two events around `calls` calls.

        Args:
            flush: L2 before, outside of the time.
            head_start_ms: the GPU sleeps as long at first, while the host fills its queue; so
                kernels follow each other as fast as the GPU takes them, not as Python can.
        """
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if flush:
            self.flush_l2()
        if head_start_ms:
            torch.cuda._sleep(round(head_start_ms * CYCLES_PER_MS))
        begin.record()
        for _ in range(calls):
            function()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))

    def graph_of(self, function: Function, calls: int) -> Function:
        """A CUDA graph of so many calls, as a function that replays it.

        Kernels must have been compiled by an earlier call.
        """
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            function()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(calls):
                function()
        return graph.replay
