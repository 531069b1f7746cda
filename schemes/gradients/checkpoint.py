"""The discrete adjoint by checkpointing every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from schemes.gradients.recompute import Gradients, Pullback, RecomputingMode, aligned, step_vjp
from schemes.registry import GRADIENTS
from schemes.state import RightHandSide, flatten

if TYPE_CHECKING:
    from schemes.flow import Carry, Loop


@GRADIENTS.register("checkpoint")
class Checkpoint(RecomputingMode):
    """Keeps the state at each step and recomputes one step at a time: backprop's gradient, to rounding.

    Memory: one state a step, and the intermediates of a single step at a time.
    """

    def forward(self, loop: Loop, carry: Carry, f: RightHandSide) -> tuple[Carry, Any]:
        kept = []
        for node in loop.nodes:
            kept.append(carry)
            carry = loop.step(node, carry, f)
        return carry, tuple(kept)

    def backward(
        self, loop: Loop, kept: Any, gradients: Any, parameters: Sequence[Tensor], f: RightHandSide
    ) -> tuple[Gradients, Gradients]:
        pull_back = Pullback(parameters)
        for node, carry in zip(reversed(loop.nodes), reversed(kept), strict=True):
            gradients = step_vjp(loop, node, carry, gradients, pull_back, f)
        return aligned(gradients, flatten(kept[0])[1]), pull_back.found
