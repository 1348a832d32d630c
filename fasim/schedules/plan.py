"""A plan: the chain of kernels that a schedule or an implementation makes of a problem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, get_args

from fasim.problem import DTYPE_BYTES, TENSOR_DTYPE, Attention, ProblemError
from fasim.schedules.compiled_loop import CompiledLoop
from fasim.schedules.language import Kernel

if TYPE_CHECKING:
    from fasim.hardware import Gpu

Tile = tuple[int, int]
StreamSource = Literal["lowered", "compiled"]


class Refused(Exception):
    """A schedule that cannot run this problem on this GPU, and why, in one line."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


@dataclass(frozen=True)
class Plan:
    """Kernels to run one after another.

    Attributes:
        tile: rows of Q × rows of K/V a block takes at a time; of the GEMMs for `standard`.
        assumptions: what was decided for the user, in sentences.
        compiled: main loops to simulate as a compiler made them; others are lowered.
    """

    schedule: str
    implementation: str | None
    kernels: tuple[Kernel, ...]
    tile: Tile
    assumptions: tuple[str, ...] = ()
    compiled: tuple[CompiledLoop, ...] = ()

    @property
    def stream(self) -> StreamSource:
        """Where the instructions of the main loops come from."""
        return "compiled" if self.compiled else "lowered"

    def compiled_loop(self, kernel: Kernel) -> CompiledLoop | None:
        """The main loop of one of the kernels, where the plan has it as compiled."""
        return next((loop for loop in self.compiled if loop.kernel == kernel.name), None)

    @property
    def num_splits(self) -> int:
        """Parts into which the keys are dealt; 1 where they are not."""
        return max(kernel.lengths.get("split", 1) for kernel in self.kernels)


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may ask of a plan, instead of what the schedule usually takes.

    Attributes:
        tile: rows of Q × rows of K/V.
        warps: warps of a block that compute.
        stages: shared-memory buffers of K and of V.
        num_splits: parts of the keys that have blocks of their own.
        pack_gqa: whether the query heads of a group share a tile.
        page_size: keys in a page of a paged K/V cache; contiguous if not given.
        writes_kv: whether a kernel before writes K and V of the new tokens into the cache.
        accumulates_grads: whether gradients are added to those of earlier calls. Any chain with a
            backward pass takes it.
        stream: `compiled`: main loops as a compiler made them, in place of lowered ones.
    """

    tile: Tile | None = None
    warps: int | None = None
    stages: int | None = None
    num_splits: int | None = None
    pack_gqa: bool | None = None
    page_size: int | None = None
    writes_kv: bool | None = None
    accumulates_grads: bool | None = None
    stream: StreamSource | None = None

    def __post_init__(self) -> None:
        if self.stream not in (None, *get_args(StreamSource)):
            choices = ", ".join(get_args(StreamSource))
            raise ProblemError(f"stream is {self.stream!r}; choose from {choices}")
        for name in ("warps", "stages", "num_splits", "page_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ProblemError(f"{name} is {value}; it must be a whole number of 1 or more")

    @property
    def given(self) -> tuple[str, ...]:
        """Names of what was asked for."""
        usual = (None, "lowered")
        return tuple(each.name for each in fields(self) if getattr(self, each.name) not in usual)


Build = Callable[[Attention, "Gpu", Options], Plan]


@dataclass(frozen=True)
class Entry:
    """A schedule or an implementation in the catalogue.

    Attributes:
        title: what it is, in a line.
        needs: what it takes, in words, for `fasim schedules`.
        check: a reason to refuse the problem or the GPU, or None.
        takes: the options it has a meaning for.
        features: what of a problem it can have beside the plain: `dropout`, `window`.
        decodes: whether it is for the few queries of decoding.
        candidates: for kernels that are timed before one is kept: every plan that is tried. The
            one of `build` is the first of them.
    """

    name: str
    schedule: str
    title: str
    source: str
    needs: str
    build: Build
    check: Callable[[Attention, Gpu], str | None]
    takes: tuple[str, ...] = ("tile",)
    features: tuple[str, ...] = ()
    decodes: bool = False
    candidates: Callable[[Attention, Gpu, Options], tuple[Plan, ...]] | None = None


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def flag(option: str) -> str:
    """An option as it is written on the command line."""
    return "--" + option.replace("_", "-")


Kernels = tuple[Kernel, ...]


def chain_of(
    problem: Attention, forward: Callable[[], Kernels], backward: Callable[[], Kernels]
) -> Kernels:
    """The kernels of the problem's direction: forward, backward, or one after the other."""
    first = forward() if problem.direction != "backward" else ()
    return first + (backward() if problem.direction != "forward" else ())


def backward_tile(problem: Attention, forward: Tile, backward: Tile) -> tuple[str, ...]:
    """The assumption that says which tile backward takes, where a plan shows forward's."""
    if problem.direction != "both" or forward == backward:
        return ()
    return (f"backward takes the tile {backward[0]}x{backward[1]}",)


def check_forward(problem: Attention, gpu: Gpu) -> str | None:
    """Why a schedule that only runs forward cannot take this problem; None if it can."""
    if problem.direction != "forward":
        return f"direction is {problem.direction}; it runs forward"
    return check_dtype(problem, gpu)


def check_dtype(problem: Attention, gpu: Gpu) -> str | None:
    """Why a GPU cannot multiply the problem's dtype, or take its gradients; None if it can."""
    if problem.dtype == "fp8" and problem.direction != "forward":
        return f"direction is {problem.direction}; fp8 runs forward"
    rates = gpu.tensor_core.flops_per_clock
    if rates[TENSOR_DTYPE[problem.dtype]] is None:
        taken = [dtype for dtype in DTYPE_BYTES if rates[TENSOR_DTYPE[dtype]] is not None]
        return f"{gpu.name} has no tensor cores for {problem.dtype}, only {listed(taken)}"
    return None


def warps_for(tile: Tile, head_dim: int, name: str = "", asked: int | None = None) -> int:
    """Four warps, or eight where four could not hold the accumulators; 16 rows a warp at least.

    Args:
        name: what to call in a refusal.
        asked: a number to take instead.

    Raises:
        Refused: so many warps cannot share the rows of the tile, 16 or a multiple each.
    """
    rows, columns = tile
    if asked is not None:
        if rows % (16 * asked):
            fitting = [n for n in range(1, rows // 16 + 1) if rows % (16 * n) == 0]
            raise Refused(
                name,
                f"{asked} warps cannot share {rows} rows, a multiple of 16 each; "
                f"{', '.join(map(str, fitting))} would work",
            )
        return asked
    accumulators_per_thread = rows * (columns + head_dim) // 128
    wanted = 4 if accumulators_per_thread <= 192 else 8
    return max(1, min(wanted, rows // 16))
