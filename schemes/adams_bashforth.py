"""Adams-Bashforth methods."""

from __future__ import annotations

import abc
from fractions import Fraction as F
from typing import ClassVar

from schemes.base import Scheme
from schemes.node import Node
from schemes.registry import SCHEMES
from schemes.runge_kutta import RK3, RK4, Heun, RungeKutta
from schemes.state import RightHandSide, State, combine


class Adams(Scheme, abstract=True):
    """A method that remembers the slopes of ``history`` steps before.

    The first steps are steps of the Runge-Kutta method ``start_up``, on the module of the step that they start; their
    first stage is the value that is remembered. Uniform step sizes.
    """

    start_up: RungeKutta

    def step(
        self, f: RightHandSide, node: Node, y: State, memory: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        if len(memory) < self.history:
            k = self.start_up.evaluate(f, node, y)
            return self.start_up.advance(node, y, k), (k[0], *memory)
        slopes = (f(node, y), *memory)
        return self.go_on(f, node, y, slopes), slopes[: self.history]

    @abc.abstractmethod
    def go_on(self, f: RightHandSide, node: Node, y: State, slopes: tuple[State, ...]) -> State:
        """The state one step on, from the slopes f_n, f_{n-1}, ..."""


class AdamsBashforth(Adams, abstract=True):
    """u_{n+1} = u_n + h sum_j b_j f_{n-j}(u_{n-j}); each f is evaluated once, with the weights of its own step.

    The first steps are Runge-Kutta steps of the same order.
    """

    weights: ClassVar[tuple[F, ...]]
    starter: ClassVar[type[RungeKutta]]
    stages = 1

    def __init_subclass__(cls, abstract: bool = False) -> None:
        if not abstract:
            cls.order = len(cls.weights)
            cls.history = len(cls.weights) - 1
        super().__init_subclass__(abstract)

    def __init__(self) -> None:
        super().__init__()
        self.start_up = self.starter()

    def go_on(self, f: RightHandSide, node: Node, y: State, slopes: tuple[State, ...]) -> State:
        return combine(y, ((node.h * float(b), slope) for b, slope in zip(self.weights, slopes, strict=True)))


@SCHEMES.register("adams_bashforth2")
class AdamsBashforth2(AdamsBashforth):
    r"""Adams-Bashforth of order 2, started by Heun's method.

        u_{n+1} = u_n + h/2 (3 f_n - f_{n-1})

    Reference: Bashforth, Adams, "An Attempt to Test the Theories of Capillary Action", Cambridge 1883.
    """

    weights = (F(3, 2), F(-1, 2))
    starter = Heun


@SCHEMES.register("adams_bashforth3")
class AdamsBashforth3(AdamsBashforth):
    r"""Adams-Bashforth of order 3, started by Kutta's method of order 3.

        u_{n+1} = u_n + h/12 (23 f_n - 16 f_{n-1} + 5 f_{n-2})

    Reference: Bashforth, Adams, "An Attempt to Test the Theories of Capillary Action", Cambridge 1883.
    """

    weights = (F(23, 12), F(-16, 12), F(5, 12))
    starter = RK3


@SCHEMES.register("adams_bashforth4")
class AdamsBashforth4(AdamsBashforth):
    r"""Adams-Bashforth of order 4, started by the classic Runge-Kutta method.

        u_{n+1} = u_n + h/24 (55 f_n - 59 f_{n-1} + 37 f_{n-2} - 9 f_{n-3})

    Reference: Bashforth, Adams, "An Attempt to Test the Theories of Capillary Action", Cambridge 1883.
    """

    weights = (F(55, 24), F(-59, 24), F(37, 24), F(-9, 24))
    starter = RK4
