"""Plain backpropagation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from schemes.gradients.base import GradientMode
from schemes.registry import GRADIENTS
from schemes.state import State, axpy

if TYPE_CHECKING:
    from schemes.equation import Equation
    from schemes.loop import Carry, Loop, Pass
    from schemes.time_derivatives import SlopesOfNoLength


@GRADIENTS.register("backprop")
class Backprop(GradientMode):
    """The plain loop: autograd keeps every intermediate. The only mode with second derivatives."""

    def __call__(self, loop: Loop, carry: Carry) -> Pass:
        return loop.run(carry)

    def transport(self, equation: Equation | SlopesOfNoLength, y: State, start: Tensor, end: Tensor) -> State:
        """By a step of the midpoint rule, whose size is zero: its first and second derivatives are the solution's."""
        h = end - start
        middle = axpy(y, equation.slope(start, y), h / 2)
        return axpy(y, equation.slope(start + h / 2, middle), h)
