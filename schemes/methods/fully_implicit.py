"""Fully implicit Runge-Kutta methods: all stages of a step are one equation."""

from __future__ import annotations

from fractions import Fraction as F
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from schemes.core.node import Node
from schemes.core.random_state import unmoved_random_state
from schemes.core.state import VectorField, combine
from schemes.core.tableau import ButcherTableau
from schemes.core.weighting import separate_weights
from schemes.methods.implicit_runge_kutta import ImplicitRungeKutta
from schemes.nonlinear.newton_krylov import Solver
from schemes.registry import SCHEMES


class FullyImplicit(ImplicitRungeKutta, abstract=True):
    """An implicit method whose stages Y_i = y_n + h sum_j a_ij f(t_n + c_j h, Y_j) are one equation; A is invertible.

    The stages are solved for together, stacked along a new first dimension. All of them have one dropout mask.
    """

    def _part(self, solver: Solver, f: VectorField, node: Node, y: Tensor, first: int) -> Tensor:
        f, weigh = separate_weights(f)
        nodes = [node.at(first + stage, c) for stage, (c, _) in enumerate(self.tableau.rows)]

        def image(at: Node, stacked: Tensor) -> Tensor:
            """A k."""
            *others, last = zip(nodes, stacked.unbind(), strict=True)
            k = []
            for n, stage in others:
                with unmoved_random_state(stage):
                    k.append(f(n._replace(trial=at.trial), stage))
            k.append(f(last[0]._replace(trial=at.trial), last[1]))
            return torch.stack([combine(None, ((a, k[j]) for j, a in row)) for _, row in self.tableau.rows])

        base = torch.stack([y] * len(nodes))
        moved = solver.solve(image, nodes[0], base, node.h).unbind()
        # From the equation itself: f at the solution would magnify what the solve has left over.
        k = [combine(None, zip(row, moved, strict=True)) for row in np.linalg.inv(self.tableau.matrix).tolist()]
        return combine(y, ((b, weigh(nodes[i], k[i])) for i, b in self.tableau.weights))


@SCHEMES.register("radauIIA3")
class RadauIIA3(FullyImplicit):
    r"""Radau IIA of two stages and order 3, with c = 1/3 and 1; A- and L-stable, stiffly accurate.

        u_{n+1} = Y_2 = u_n + h/4 (3 k_1 + k_2)

    Reference: Ehle, "On Padé Approximations to the Exponential Function and A-stable Methods for the Numerical
    Solution of Initial Value Problems", University of Waterloo 1969.
    """

    tableau = ButcherTableau(a=((F(5, 12), F(-1, 12)), (F(3, 4), F(1, 4))), b=(F(3, 4), F(1, 4)), order=3)


@SCHEMES.register("radauIIA5")
class RadauIIA5(FullyImplicit):
    r"""Radau IIA of three stages and order 5, with c = (4 -+ sqrt(6))/10 and 1; A- and L-stable, stiffly accurate.

        u_{n+1} = Y_3 = u_n + h ((16 - sqrt(6))/36 k_1 + (16 + sqrt(6))/36 k_2 + 1/9 k_3)

    Reference: Hairer, Wanner, "Solving Ordinary Differential Equations II", 2nd ed., Springer 1996, section IV.5.
    """

    _r = sqrt(6)
    _b = ((16 - _r) / 36, (16 + _r) / 36, 1 / 9)
    tableau = ButcherTableau(
        a=(
            ((88 - 7 * _r) / 360, (296 - 169 * _r) / 1800, (-2 + 3 * _r) / 225),
            ((296 + 169 * _r) / 1800, (88 + 7 * _r) / 360, (-2 - 3 * _r) / 225),
            _b,
        ),
        b=_b,
        order=5,
        c=((4 - _r) / 10, (4 + _r) / 10, 1),
    )


@SCHEMES.register("gl4")
class Gauss4(FullyImplicit):
    r"""Gauss's method (Gauss-Legendre) of two stages and order 4, with c = 1/2 -+ sqrt(3)/6; symplectic and A-stable.

        u_{n+1} = u_n + h/2 (k_1 + k_2)

    Reference: Butcher, "Implicit Runge-Kutta Processes", Math. Comp. 18, 1964.
    """

    _r = sqrt(3) / 6
    tableau = ButcherTableau(
        a=((1 / 4, 1 / 4 - _r), (1 / 4 + _r, 1 / 4)),
        b=(F(1, 2), F(1, 2)),
        order=4,
        c=(1 / 2 - _r, 1 / 2 + _r),
    )


@SCHEMES.register("gl6")
class Gauss6(FullyImplicit):
    r"""Gauss's method (Gauss-Legendre) of three stages and order 6, with c = 1/2 -+ sqrt(15)/10; symplectic, A-stable.

        u_{n+1} = u_n + h/18 (5 k_1 + 8 k_2 + 5 k_3)

    Reference: Butcher, "Implicit Runge-Kutta Processes", Math. Comp. 18, 1964.
    """

    _r = sqrt(15)
    tableau = ButcherTableau(
        a=(
            (5 / 36, 2 / 9 - _r / 15, 5 / 36 - _r / 30),
            (5 / 36 + _r / 24, 2 / 9, 5 / 36 - _r / 24),
            (5 / 36 + _r / 30, 2 / 9 + _r / 15, 5 / 36),
        ),
        b=(F(5, 18), F(4, 9), F(5, 18)),
        order=6,
        c=(1 / 2 - _r / 10, 1 / 2, 1 / 2 + _r / 10),
    )
