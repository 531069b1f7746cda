"""Adams methods: Bashforth, and Moulton as predictor and corrector."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from fractions import Fraction as F
from typing import ClassVar, Literal

import numpy as np

from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import State, VectorField, combine
from schemes.errors import SchemenetError
from schemes.methods.explicit import RK3, RK4, Heun
from schemes.methods.runge_kutta import RungeKutta
from schemes.registry import SCHEMES


class Adams(Scheme, abstract=True):
    """A method that stores the slopes of ``history`` earlier steps.

    The first steps are steps of the Runge-Kutta method ``start_up``, with the weights of the step that they start;
    their first stage is the slope that is stored. Uniform step sizes.
    """

    start_up: RungeKutta

    def step(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        if len(solver_state) < self.history:
            k = self.start_up.evaluate(f, node, y)
            return self.start_up.advance(node, y, k), (k[0], *solver_state)
        slopes = (f(node, y), *solver_state)
        return self.next_state(f, node, y, slopes), slopes[: self.history]

    @abc.abstractmethod
    def next_state(self, f: VectorField, node: Node, y: State, slopes: tuple[State, ...]) -> State:
        """The state after the step.

        Args:
            f: the right-hand side.
            node: step index, time and size.
            y: the state before the step.
            slopes: f_n, f_{n-1}, ...
        """


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

    def next_state(self, f: VectorField, node: Node, y: State, slopes: tuple[State, ...]) -> State:
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


@SCHEMES.register("adams_moulton")
class AdamsMoulton(Adams):
    r"""Adams-Moulton, its equation iterated from Adams-Bashforth's value: order p from p - 1 known slopes.

        v_0     = u_n + h sum_j b_j f_{n-j}                                         predictor, order p - 1
        v_{i+1} = u_n + h (a_{-1} f(t_n + h, v_i) + sum_j a_j f_{n-j})              corrector, order p
        u_{n+1} = v_m

    for example (p = 4) a = (9, 19, -5, 1)/24 and b = (23, -16, 5)/12. One iteration gives the order; more of them
    approach the implicit method where h f is a contraction. The first p - 2 steps are Runge-Kutta steps of order p.
    Uniform step sizes.

    Args:
        order: p.
        iterations: m, of the corrector.

    Reference: Moulton, "New Methods in Exterior Ballistics", Chicago 1926; Hairer, Nørsett, Wanner, "Solving Ordinary
    Differential Equations I", 2nd ed., Springer 1993, section III.1.
    """

    order = 4
    stages = 2
    noise_reaches_arguments = True  # the corrector is f at the predictor

    def __init__(self, order: Literal[2, 3, 4] = 4, iterations: int = 1) -> None:
        super().__init__()
        if iterations < 1:
            raise SchemenetError(f"scheme 'adams_moulton': iterations expected to be at least 1, got {iterations}")
        self.order, self.stages, self.history = order, 1 + iterations, order - 2
        nodes = range(0, 1 - order, -1)
        self.predictor, self.corrector = quadrature(nodes), quadrature((1, *nodes))
        self.start_up = {2: Heun, 3: RK3, 4: RK4}[order]()

    def next_state(self, f: VectorField, node: Node, y: State, slopes: tuple[State, ...]) -> State:
        following = combine(y, ((node.h * b, slope) for b, slope in zip(self.predictor, slopes, strict=True)))
        for stage in range(1, self.stages):
            terms = zip(self.corrector, (f(node.at(stage, 1.0), following), *slopes), strict=True)
            following = combine(y, ((node.h * a, slope) for a, slope in terms))
        return following


def quadrature(nodes: Sequence[int]) -> tuple[float, ...]:
    """The weights at ``nodes`` that integrate polynomials of degree below their number from 0 to 1 exactly."""
    weights = []
    for node in nodes:
        cardinal = np.polynomial.Polynomial([F(1)])  # 1 at this node, 0 at the others
        for other in nodes:
            if other != node:
                cardinal *= np.polynomial.Polynomial([F(-other, node - other), F(1, node - other)])
        weights.append(float(sum(c / (power + 1) for power, c in enumerate(cardinal.coef))))
    return tuple(weights)
