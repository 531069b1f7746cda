"""The discrete adjoint by checkpointing every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from schemes.core.state import State, VectorField, flatten
from schemes.gradients.recomputation.autograd import Gradients, Kept, Pullback, RecomputingMode, aligned, step_vjp
from schemes.integration.loop import LoopResult
from schemes.registry import GRADIENTS

if TYPE_CHECKING:
    from schemes.integration.loop import Carry, Loop


@GRADIENTS.register("checkpoint")
class Checkpoint(RecomputingMode):
    """Keeps the state at each step and recomputes one step at a time: backprop's gradient, to rounding.

    Memory: one state a step, and the intermediates of a single step at a time.
    """

    supports_per_sample = True

    def forward(self, loop: Loop, carry: Carry, f: VectorField) -> tuple[LoopResult, Any]:
        kept: list[Carry] = []
        outputs: list[State] = []
        for _, before, taken in loop.walk(carry, f):
            kept.append(before)
            carry = taken.carry
            outputs += taken.outputs
        return LoopResult(carry, tuple(outputs)), tuple(kept)

    def backward(
        self, loop: Loop, kept: Kept, gradients: Any, parameters: Sequence[Tensor], f: VectorField
    ) -> tuple[Gradients, Gradients]:
        pull_back = Pullback(parameters)
        gradient, outputs = gradients
        carries = list(kept.take())
        shape = flatten(carries[0])[1]
        for node, here in reversed(list(zip(loop.nodes, loop.by_step(outputs), strict=True))):
            gradient = step_vjp(loop.advance, node, carries.pop(), (gradient, here), pull_back, f, loop.backward)
        return aligned(gradient, shape), pull_back.of_parameters
