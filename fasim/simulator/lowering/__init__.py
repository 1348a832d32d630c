"""Lowering: one iteration of a recorded loop under a mapping, as the stream one warp issues.

No schedule is named here. What it looks at: the kinds of operations, the shapes of their
tiles, what feeds what (carried values included), whether an operand was loaded or computed,
and the mapping's answers by matmul name. The rules are ordinary compiler ideas; each is
stated where it is applied.
"""

from fasim.simulator.lowering.loop import LoopStream, lower, main_loop

__all__ = ["LoopStream", "lower", "main_loop"]
