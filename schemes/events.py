"""Events: a solve that ends where a function of time and state changes its sign."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from scipy.optimize import brentq
from torch import Tensor

from schemes.node import Node
from schemes.state import State, detached

Direction = Literal["both", "rising", "falling"]


class Event:
    """The first time at which an entry of g(t, y) crosses zero ends the solve.

    - Signs are compared at the ends of accepted steps; in the step where one changed, the time is found by Brent's
      method on the step's interpolant. An entry that has its old sign again at the end of the step is not seen, nor is
      a zero that is touched without a change of sign: a smaller ``max_step`` looks more often.
    - With ``direction`` both, g = 0 at the start is an event at the start. With rising or falling only a crossing
      that way is one, and a start on the zero is none (a ball that leaves the floor).
    - g = 0 at the very end of a step, or at the last time of the solve, is an event there.
    - Of several entries that change their signs in one step the first one counts.

    ``beyond`` goes on after the last time of an adaptive solve until there is an event.
    """

    def __init__(self, g: Callable[[Tensor, Any], Tensor], direction: Direction = "both", beyond: bool = False) -> None:
        self.g, self.beyond = g, beyond
        self.direction: Direction = direction


def endless(event: Event | Callable[..., Tensor]) -> Event:
    """The same event, looked for beyond the last time."""
    if isinstance(event, Event):
        return Event(event.g, event.direction, beyond=True)
    return Event(event, beyond=True)


class Watch:
    """An event looked for during one solve; ``time`` is when it happened, None as long as it has not.

    ``g`` takes the solver's time and state. Each entry of it times its sign here is positive until the event.
    """

    def __init__(self, event: Event, g: Callable[[float, State], Tensor], t: float, y: State) -> None:
        self.g = g
        with torch.no_grad():
            values = g(t, detached(y)).detach().flatten()
        both = event.direction == "both"
        self.signs = values.sign() if both else torch.full_like(values, -1.0 if event.direction == "rising" else 1.0)
        self.armed = values * self.signs > 0
        self.time: float | None = t if both and bool((values == 0).any()) else None

    def within(self, node: Node, y0: State, y1: State, between: Callable[[float], State]) -> float | None:
        """Where in the step after a node the event is, as a fraction of it; None where there is none."""

        def values(theta: float) -> Tensor:
            y = y0 if theta == 0 else y1 if theta == 1 else between(theta)
            return self.g(node.t + theta * node.h, detached(y)).detach().flatten() * self.signs

        with torch.no_grad():
            after = values(1.0)
            if not bool((self.armed & (after <= 0)).any()):
                self.armed = after > 0
                return None
            theta: Any = brentq(lambda theta: float(values(theta)[self.armed].min()), 0.0, 1.0, xtol=1e-15)
        self.time = node.t + theta * node.h
        return theta
