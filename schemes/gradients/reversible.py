"""The reversible gradient mode: backward inverts the steps, in memory that does not grow with depth."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from schemes.core.state import State, VectorField, flatten, unflatten
from schemes.errors import SchemenetError, StepLimitError
from schemes.gradients.recomputation.autograd import (
    PROJECTED,
    Gradients,
    Kept,
    Pullback,
    RecomputingMode,
    aligned,
    leaves_of,
    step_vjp,
)
from schemes.gradients.recomputation.reconstruction_error import fingerprint, reconstruction_error
from schemes.integration.loop import LoopResult
from schemes.registry import GRADIENTS

if TYPE_CHECKING:
    from schemes.core.node import Node
    from schemes.core.scheme import Scheme
    from schemes.flow import Flow
    from schemes.integration.loop import Carry, Loop


class InversionErrorWarning(UserWarning):
    """The inverted steps miss the state that the flow started from."""


@GRADIENTS.register("reversible")
class Reversible(RecomputingMode):
    """Keeps the end state only and inverts step after step; backprop's gradient of the same scheme, up to rounding.

    Each f is evaluated once more in backward: its value undoes the step, its graph gives the derivative.

    An inverse that is exact in exact arithmetic can still stretch rounding errors without bound. So backward compares
    the start that it has rebuilt with a thousand entries of the true one, kept from the forward pass; ``error`` is the
    difference in the last backward pass.

    Args:
        tolerance: relative difference, in the Euclidean norm, above which :class:`InversionErrorWarning` is raised.

    Reference: Gomez, Ren, Urtasun, Grosse, "The Reversible Residual Network: Backpropagation Without Storing
    Activations", NeurIPS 2017, arXiv:1707.04585, algorithm 1.
    """

    def __init__(self, tolerance: float = 1e-3) -> None:
        if not tolerance > 0:
            raise SchemenetError(f"gradient mode 'reversible': tolerance expected to be positive, got {tolerance}")
        self.tolerance = tolerance
        self.error: float | None = None

    def unsupported_reason(self, flow: Flow) -> str | None:
        if flow.projection is not None:
            return PROJECTED.format("reversible", "cannot be inverted")
        return self.unsupported_scheme_reason(flow.scheme)

    def unsupported_scheme_reason(self, scheme: Scheme) -> str | None:
        if scheme.reversible:
            return None
        return (
            "gradient mode 'reversible' needs a scheme whose step can be undone, and "
            f"{type(scheme).__name__} has no inverse; use gradient=checkpoint, scheme=reversible_wrap with "
            "scheme.base, or symplectic_euler, verlet or leapfrog"
        )

    def diagnostics(self) -> dict[str, float]:
        return {} if self.error is None else {"inversion_error": self.error}

    def __call__(self, loop: Loop, carry: Carry) -> LoopResult:
        tensors, shape = flatten(carry)
        if torch.is_grad_enabled() and any(t.dtype in (torch.float16, torch.bfloat16) for t in tensors):
            # Under autocast a stem gives half precision; the streams themselves are then kept in float32.
            if not torch.is_autocast_enabled(tensors[0].device.type):
                raise SchemenetError(
                    f"gradient mode 'reversible' cannot invert steps in {tensors[0].dtype}: rounding would destroy the "
                    "rebuilt states; keep the model in float32 and use autocast (trainer.precision=bf16-mixed)"
                )
            carry = unflatten([t.float() for t in tensors], shape)
        return super().__call__(loop, carry)

    def forward(self, loop: Loop, carry: Carry, f: VectorField) -> tuple[LoopResult, Any]:
        start = fingerprint(carry)
        outputs: list[State] = []
        for node, _, taken in loop.walk(carry, f):
            carry = taken.carry
            outputs += taken.outputs
            if (limit := loop.scheme.max_reversible_steps) is not None and node.step >= limit:
                raise StepLimitError(
                    f"gradient mode 'reversible' can undo {limit} steps of {type(loop.scheme).__name__} (its coupling "
                    f"stretches rounding errors tenfold over them), and at t = {node.t:.6g} they are taken; use larger "
                    "tolerances, a base of higher order, scheme.coupling nearer to 1, or gradient=checkpoint"
                )
        if loop.crosses_jump:
            raise SchemenetError(
                "gradient mode 'reversible' cannot undo a step across a time at which f jumps (grid.jump_t); solve "
                "each side by itself, or use gradient=checkpoint"
            )
        return LoopResult(carry, tuple(outputs)), (start, carry)

    def backward(
        self, loop: Loop, kept: Kept, gradients: Any, parameters: Sequence[Tensor], f: VectorField
    ) -> tuple[Gradients, Gradients]:
        start, carry = kept.take()
        pull_back = Pullback(parameters)
        once = _Once(f, pull_back)
        gradient, outputs = gradients
        for node, here in reversed(list(zip(loop.nodes, loop.by_step(outputs), strict=True))):
            of_part = (gradient, here)
            for part in reversed(loop.invertible_parts(node)):
                carry = part.inverse(node, carry, once.evaluate)
                gradient = step_vjp(part.advance, node, carry, of_part, pull_back, once.recall, loop.backward)
                of_part = (gradient, ())
        self._check_start(start, carry)
        return aligned(gradient, flatten(carry)[1]), pull_back.of_parameters

    def _check_start(self, start: Any, rebuilt: Carry) -> None:
        self.error = gap = reconstruction_error(start, rebuilt)
        if not gap <= self.tolerance:
            warnings.warn(
                f"gradient mode 'reversible': the inverted steps miss the start of a flow by {gap:.1g} of its norm, "
                f"more than tolerance={self.tolerance:g}, so the gradient is taken along other states; use fewer or "
                "smaller steps, a higher precision or gradient=checkpoint",
                InversionErrorWarning,
                stacklevel=2,
            )


class _Once:
    """f for a reverse sweep: the inverse evaluates it with a graph, the step recalls value and derivative."""

    def __init__(self, f: VectorField, pull_back: Pullback) -> None:
        self.f, self.pull_back = f, pull_back
        self._values: dict[tuple[int, int, int], tuple[list[Tensor], list[Tensor], Any]] = {}

    def evaluate(self, node: Node, y: State) -> State:
        with torch.enable_grad():
            y, fresh = leaves_of(y)
            values, form = flatten(self.f(node, y))
        self._values[node.place] = (fresh, values, form)
        return unflatten([value.detach() for value in values], form)

    def recall(self, node: Node, y: State) -> State:
        if (evaluated := self._values.pop(node.place, None)) is None:
            return self.f(node, y)
        fresh, values, form = evaluated
        return unflatten(_EvaluatedOnce.apply(self.pull_back, fresh, values, *flatten(y)[0]), form)


class _EvaluatedOnce(torch.autograd.Function):
    """The value of f that is known already, with the derivative that its own graph gives."""

    @staticmethod
    def forward(
        ctx: Any, pull_back: Pullback, fresh: list[Tensor], values: list[Tensor], *y: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.pull_back, ctx.fresh, ctx.values = pull_back, fresh, values
        return tuple(value.detach() for value in values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *ctx.pull_back(ctx.values, list(gradients), ctx.fresh)
