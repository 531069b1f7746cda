"""Events: a solve ends where a function of time and state changes its sign."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from schemes.core.node import Node
from schemes.core.state import State, detached, flatten, unflatten
from schemes.errors import NonFiniteError, SchemenetError

Direction = Literal["both", "rising", "falling"]
WIDTH = 4e-15
"""How narrowly an event is located, as a fraction of its step."""


class Event:
    """The first time at which an entry of g(t, y) crosses zero ends the solve.

    - Signs are compared at the ends of accepted steps; in the step where one changed, the time is found by bracketing
      on the step's interpolant. An entry that has its old sign again at the end of the step is not seen, nor is
      a zero that is touched without a change of sign: a smaller ``max_step`` looks more often.
    - With ``direction`` both, g = 0 at the start is an event at the start. With rising or falling only a crossing
      that way is one, and a start on the zero is none (a ball that leaves the floor).
    - g = 0 at the very end of a step, or at the last time of the solve, is an event there.
    - An entry that is zero on an interval has its event where it becomes zero. With rising or falling an entry that
      was zero over a whole step has it where it leaves zero that way.
    - Truth values are numbers of two signs: the event is where one changes (rising: from False to True).
    - Of several entries that change their signs in one step the first one counts.

    The derivative of the event's time is that of the entry that crossed, by the implicit function theorem.

    Args:
        g: the event function of (t, y): a tensor of one entry or more, real numbers or truth values.
        direction: "both", "rising" or "falling".
        beyond: whether an adaptive solve continues after its last time until there is an event.
    """

    def __init__(self, g: Callable[[Tensor, Any], Tensor], direction: Direction = "both", beyond: bool = False) -> None:
        self.g, self.beyond = g, beyond
        self.direction: Direction = direction

    def values(self, t: Tensor, y: Any) -> Tensor:
        """The entries of g as a vector of real numbers, 1 and -1 for truth values."""
        value: Any = self.g(t, y)
        if not isinstance(value, Tensor | bool | int | float) or (isinstance(value, Tensor) and not value.numel()):
            raise SchemenetError(f"event: g(t, y) expected to be a tensor of one entry or more, got {value!r}")
        value = torch.as_tensor(value)
        if value.is_complex():
            raise SchemenetError(
                "event: g(t, y) expected to be real, got complex numbers, which have no sign; use its real part or "
                "its absolute value"
            )
        if value.dtype == torch.bool:
            value = torch.where(value, 1.0, -1.0)
        return (value if value.is_floating_point() else value.to(torch.get_default_dtype())).flatten()


def as_event(event: Event | Callable[..., Tensor]) -> Event:
    """An event, of a function too."""
    return event if isinstance(event, Event) else Event(event)


def endless(event: Event | Callable[..., Tensor]) -> Event:
    """The same event, looked for beyond the last time."""
    event = as_event(event)
    return Event(event.g, event.direction, beyond=True)


class EventDetector:
    """An event looked for during one solve.

    ``time`` is when it happened, None as long as it has not, and ``entry`` which entry of ``values`` then crossed zero.
    ``values`` takes the solver's time and state. Each entry times its sign here is positive before its event.
    """

    def __init__(self, event: Event, values: Callable[[Any, State], Tensor], t: float, y: State) -> None:
        self.values = values
        first = self._values(t, y)
        both = event.direction == "both"
        self.signs = first.sign() if both else torch.full_like(first, -1.0 if event.direction == "rising" else 1.0)
        self.before = first * self.signs
        self.resting = torch.zeros_like(first, dtype=torch.bool)
        """Entries that were zero at both ends of the last step."""
        self.time: float | None = None
        self.entry = 0
        if both and bool((first == 0).any()):
            self.time, self.entry = t, int(first.abs().argmin())

    def _values(self, t: float, y: State) -> Tensor:
        with torch.no_grad():
            values = self.values(t, detached(y)).detach()
        if bool(values.isnan().any()):
            raise NonFiniteError(
                f"event: g(t, y) is not a number at t = {t:.6g}; it needs a sign at the end of each step, also of the "
                "one that goes beyond the event"
            )
        return values

    def locate(self, node: Node, y0: State, y1: State, interpolate: Callable[[float], State]) -> float | None:
        """Where in the step after a node the event is, as a fraction of it; None where there is none."""

        def ahead(theta: float) -> Tensor:
            y = y0 if theta == 0 else y1 if theta == 1 else interpolate(theta)
            return self._values(node.t + theta * node.h, y) * self.signs

        def crossed(values: Tensor) -> Tensor:
            return (self.before > 0) & (values <= 0) | self.resting & (values < 0)

        with torch.no_grad():
            after = ahead(1.0)
            due = crossed(after)
            if not bool(due.any()):
                self.resting = (self.before == 0) & (after == 0)
                self.before = after
                return None

            def smallest(theta: float) -> tuple[float, bool]:
                values = ahead(theta)
                return float(values[due].min()), bool((crossed(values) & due).any())

            low, high = bracket(smallest, float(self.before[due].min()), float(after[due].min()))
            values = ahead(high)
            self.entry = int(values.where(crossed(values) & due, torch.inf).argmin())
        # On the side where g is not zero it has its derivative, and the sign from which a next solve may start.
        theta = high if bool(self.resting[self.entry]) else low
        rounding = 16 * torch.finfo(after.dtype).eps * max(1.0, abs((node.t + node.h) / node.h))
        if high == 1 or (1 - low <= rounding and bool(after[self.entry] == 0)):
            theta = 1.0
        self.time = node.t + theta * node.h
        return theta


def bracket(value: Callable[[float], tuple[float, bool]], start: float, end: float) -> tuple[float, float]:
    """The ends of a narrow interval in [0, 1] between which a function crosses.

    ``value`` returns the function's value and whether that is already across; ``start`` and ``end`` are the values
    at 0 (not across) and 1 (across).

    Reference: Chandrupatla, "A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear function
    without using derivatives", Advances in Engineering Software 28, 1997.
    """
    x1, f1, across1 = 1.0, end, True
    x2, f2 = 0.0, start
    fraction = 0.5
    while abs(x2 - x1) > WIDTH:
        x = x1 + fraction * (x2 - x1)
        f, across = value(x)
        x3, f3 = (x1, f1) if across == across1 else (x2, f2)
        if across != across1:
            x2, f2 = x1, f1
        x1, f1, across1 = x, f, across
        least = 0.5 * WIDTH / abs(x2 - x1)
        fraction = min(max(_inverse_quadratic(x1, x2, x3, f1, f2, f3), least), 1 - least)
    return (x2, x1) if across1 else (x1, x2)


def _inverse_quadratic(x1: float, x2: float, x3: float, f1: float, f2: float, f3: float) -> float:
    """Where from x1 to x2 the inverse parabola through three points has its zero; the middle where it is no guide."""
    if len({f1, f2, f3}) < 3:
        return 0.5
    xi, phi = (x1 - x2) / (x3 - x2), (f1 - f2) / (f3 - f2)
    if not (phi**2 < xi and (1 - phi) ** 2 < 1 - xi):
        return 0.5
    alpha = (x3 - x1) / (x2 - x1)
    return f1 / (f2 - f1) * f3 / (f2 - f3) + alpha * f1 / (f3 - f1) * f2 / (f3 - f2)


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
        return tuple(tensor[...] for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        if any(gradient is not None and bool(gradient.any()) for gradient in gradients):
            raise SchemenetError(ctx.message)
        return None, *gradients
