"""Gradient mode: how the steps of a loop are differentiated."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from schemes.core.state import State, axpy
from schemes.errors import SchemenetError

if TYPE_CHECKING:
    from schemes.core.scheme import Scheme
    from schemes.flow import Flow
    from schemes.integration.loop import Carry, Loop, LoopResult

Slope = Callable[[Tensor, State], State]
"""f(t, y)."""

FIRST_ONLY = (
    "gradient mode {!r} gives first derivatives only; second derivatives (create_graph=True) need gradient=backprop"
)
BACKWARD_ONLY = (
    "gradient mode {!r} is differentiated by backward() and torch.autograd.grad alone; transforms of torch.func and "
    "forward-mode derivatives need gradient=backprop"
)


class GradientMode(abc.ABC):
    """Runs a loop from a carry (state, solver state) to its end, differentiably. Step sizes are constants.

    A subclass declares ``recomputes``, and where it differs from the default

    - ``recomputes``: whether backward evaluates f again, so that what f reads must be known to the mode;
    - ``replays_nodes``: whether an f with random numbers, or with buffers that it changes, may be stepped over given
      nodes: if backward evaluates it again, then at those very nodes, under the same conditions;
    - ``supports_per_sample``: whether each row of a batch may have steps of its own.
    """

    recomputes: ClassVar[bool]
    replays_nodes: ClassVar[bool] = True
    supports_per_sample: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    def unsupported_reason(self, flow: Flow) -> str | None:
        """The reason why this mode cannot differentiate a flow with its axes; None where it can."""
        return None

    def unsupported_scheme_reason(self, scheme: Scheme) -> str | None:
        """The part of :meth:`unsupported_reason` that is the scheme's, for an initial value problem."""
        return None

    def diagnostics(self) -> dict[str, float]:
        """Measurements of the last backward pass by name, such as ``inversion_error``; empty where there are none."""
        return {}

    @abc.abstractmethod
    def __call__(self, loop: Loop, carry: Carry) -> LoopResult: ...

    def transport(self, slope: Slope, y: State, start: Tensor, end: Tensor) -> State:
        """The state at ``end`` of the solution of y' = slope(t, y) through y at ``start``, tensors of the same value.

        It has y's value, and depends on both times as the solution does: here by its slope, a constant.
        """
        if torch._C._are_functorch_transforms_active():
            raise SchemenetError(BACKWARD_ONLY.format(self.name))
        with torch.no_grad():
            value = slope(start, y)
        return axpy(y, value, _FirstOnly.apply(end - start, self.name))


class _FirstOnly(torch.autograd.Function):
    """The identity, which refuses to be differentiated twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str) -> Tensor:
        ctx.name = name
        return x[...]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]  # one output
        if torch.is_grad_enabled():
            raise SchemenetError(FIRST_ONLY.format(ctx.name))
        return gradient, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise SchemenetError(BACKWARD_ONLY.format(ctx.name))
