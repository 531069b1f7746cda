"""The two-step leapfrog (explicit midpoint) method."""

from __future__ import annotations

from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import State, VectorField, axpy
from schemes.registry import SCHEMES


@SCHEMES.register("leapfrog")
class Leapfrog(Scheme):
    r"""Two-step leapfrog, also called the two-step midpoint rule; reversible.

        u_{n+1} = u_{n-1} + 2 h f_n(u_n),      u_1 = u_0 + h f_0(u_0)

    Order 2; stable on the imaginary axis up to 1 and nowhere on the real one. ``linear_multistep`` with k = 1 and
    f scaled by 2 is the same method. The paper below calls its network of this update the midpoint network.

    Reference: Chang, Meng, Haber, Ruthotto, Begert, Holtham, "Reversible Architectures for Arbitrarily Deep Residual
    Neural Networks", AAAI 2018, arXiv:1709.03698.
    """

    order = 2
    stages = 1
    history = 1
    reversible = True

    def step(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        if not solver_state:
            return axpy(y, f(node, y), node.h), (y,)
        return axpy(solver_state[0], f(node, y), 2 * node.h), (y,)

    def inverse(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        before = solver_state[0]
        if node.step == 0:
            return before, ()
        return before, (axpy(y, f(node, before), -2 * node.h),)
