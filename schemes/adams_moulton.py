"""The predictor-corrector methods of Adams, Bashforth and Moulton."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction as F
from typing import Literal

import numpy as np

from schemes.adams_bashforth import Adams
from schemes.errors import SchemenetError
from schemes.node import Node
from schemes.registry import SCHEMES
from schemes.runge_kutta import RK3, RK4, Heun
from schemes.state import RightHandSide, State, combine


@SCHEMES.register("adams_moulton")
class AdamsMoulton(Adams):
    r"""Adams-Moulton, its equation iterated from Adams-Bashforth's value: order p from p - 1 known slopes.

        v_0     = u_n + h sum_j b_j f_{n-j}                                         predictor, order p - 1
        v_{i+1} = u_n + h (a_{-1} f(t_n + h, v_i) + sum_j a_j f_{n-j})              corrector, order p
        u_{n+1} = v_m,      m = ``iterations``

    for example (p = 4) a = (9, 19, -5, 1)/24 and b = (23, -16, 5)/12. One iteration gives the order; more of them
    approach the implicit method where h f is a contraction. The first p - 2 steps are Runge-Kutta steps of order p.
    Uniform step sizes.

    Reference: Moulton, "New Methods in Exterior Ballistics", Chicago 1926; Hairer, Nørsett, Wanner, "Solving Ordinary
    Differential Equations I", 2nd ed., Springer 1993, section III.1.
    """

    order = 4
    stages = 2

    def __init__(self, order: Literal[2, 3, 4] = 4, iterations: int = 1) -> None:
        super().__init__()
        if iterations < 1:
            raise SchemenetError(f"scheme 'adams_moulton': iterations expected to be at least 1, got {iterations}")
        self.order, self.stages, self.history = order, 1 + iterations, order - 2
        known = range(0, 1 - order, -1)
        self.predictor, self.corrector = quadrature(known), quadrature((1, *known))
        self.start_up = {2: Heun, 3: RK3, 4: RK4}[order]()

    def go_on(self, f: RightHandSide, node: Node, y: State, slopes: tuple[State, ...]) -> State:
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
