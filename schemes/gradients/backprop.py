"""Plain backpropagation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from schemes.core.state import State, axpy
from schemes.gradients.base import GradientMode, Slope
from schemes.registry import GRADIENTS

if TYPE_CHECKING:
    from schemes.integration.loop import Carry, Loop, LoopResult


@GRADIENTS.register("backprop")
class Backprop(GradientMode):
    """The plain loop: autograd keeps every intermediate. The only mode with second derivatives."""

    recomputes = False
    supports_per_sample = True

    def __call__(self, loop: Loop, carry: Carry) -> LoopResult:
        return loop.run(carry)

    def transport(self, slope: Slope, y: State, start: Tensor, end: Tensor) -> State:
        """By a step of the midpoint rule, whose size is zero: its first and second derivatives are the solution's."""
        h = end - start
        middle = axpy(y, slope(start, y), h / 2)
        return axpy(y, slope(start + h / 2, middle), h)
