"""The derivative of an event's time and state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from schemes.errors import SchemenetError
from schemes.state import State, detached, flatten, unflatten

ITERATIONS = 2
"""Of the iteration for the event's time: each makes one order more of its derivatives right."""


def differentiable_event(
    values: Callable[[Tensor, State], Tensor],
    transport: Callable[[State, Tensor, Tensor], State],
    entry: int,
    t: Tensor,
    y: State,
) -> tuple[Tensor, State]:
    """The time and the state of an event, depending on all that the solution and the event function depend on.

    ``values`` is the event function, whose ``entry`` is zero at the time t (a constant) and the state y there.
    ``transport(y, t, s)`` is the state at s of the solution through y at t, for a tensor s with the value of t. With
    c(s) = values(s, transport(y, t, s)) and r = dc/ds the time solves c(s) = 0, and depends on everything as

        s <- s - c(s) / r,    from s = t,

    does after as many iterations as the order of the derivative: r may be a constant, and no value changes.
    """
    if not torch.is_grad_enabled() or not (
        values(t, y)[entry].requires_grad or any(leaf.requires_grad for leaf in flatten(y)[0])
    ):
        return t, y
    if torch._C._are_functorch_transforms_active():
        raise SchemenetError(
            "the derivative of an event is taken by torch.autograd, which torch.func's transforms do not see; use "
            "torch.autograd.grad (with create_graph=True for a second one)"
        )
    rate = _rate(values, transport, entry, t, detached(y))
    if not rate or not math.isfinite(rate):
        return _without_derivative(entry, rate, t, y)
    time, state = t, y
    for _ in range(ITERATIONS):
        value = values(time, state)[entry]
        if not value.requires_grad:  # the event depends on constants alone
            return t, y
        time = time - (value - value.detach()) / rate
        state = transport(y, t, time)
    return time, state


def _rate(values: Any, transport: Any, entry: int, t: Tensor, y: State) -> float | None:
    """The derivative of the event function along the solution; None where autograd knows of none."""
    time = t.detach().clone().requires_grad_()
    value = values(time, transport(y, t, time))[entry]
    if not value.requires_grad:
        return None
    (rate,) = torch.autograd.grad(value, time, allow_unused=True)
    return None if rate is None else float(rate)


def _without_derivative(entry: int, rate: float | None, t: Tensor, y: State) -> tuple[Tensor, State]:
    """The event as it is, refusing only the gradient that it has not."""
    leaves, shape = flatten(y)
    if rate is None:
        why = (
            "is made of truth values or detached numbers; let it return a real number that depends on t or y and "
            "changes its sign"
        )
    else:
        why = (
            f"has the derivative {rate + 0.0:g} along the solution at t = {float(t):.6g} and does not cross zero there"
        )
    message = f"the time of this event has no gradient, because entry {entry} of the event function {why}"
    when, *parts = _NoGradient.apply(message, t, *leaves)
    return when, unflatten(parts, shape)


class _NoGradient(torch.autograd.Function):
    """The identity, for tensors through which no gradient but zero passes."""

    @staticmethod
    def forward(ctx: Any, message: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.message = message
        ctx.set_materialize_grads(False)
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        if any(gradient is not None and bool(gradient.any()) for gradient in gradients):
            raise SchemenetError(ctx.message)
        return None, *gradients
