"""Plain backpropagation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemes.gradients.base import GradientMode
from schemes.registry import GRADIENTS

if TYPE_CHECKING:
    from schemes.loop import Carry, Loop, Pass


@GRADIENTS.register("backprop")
class Backprop(GradientMode):
    """The plain loop: autograd keeps every intermediate. The only mode with second derivatives."""

    def __call__(self, loop: Loop, carry: Carry) -> Pass:
        return loop.run(carry)
