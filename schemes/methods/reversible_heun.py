"""Reversible Heun."""

from __future__ import annotations

from schemes.core.interpolation import between_slopes
from schemes.core.node import Node
from schemes.core.scheme import Scheme, StepResult
from schemes.core.state import State, VectorField, axpy, combine
from schemes.registry import SCHEMES


@SCHEMES.register("reversible_heun")
class ReversibleHeun(Scheme):
    r"""Heun's method around a second state z, one evaluation a step; reversible, without coupled parts.

        z_{n+1} = 2 u_n - z_n + h f(t_n, z_n),     u_{n+1} = u_n + h/2 [f(t_n, z_n) + f(t_{n+1}, z_{n+1})]

    The memory is (f(t_n, z_n), z_n), with z_0 = u_0; u is of order 2. The inverse is the same step with -h from the
    other end. It is stable on the imaginary axis up to 1 and nowhere on the real one: on u' = -10 u an oscillation of
    z - u grows until it is all there is, however small h is; use it where f is not dissipative, or over short times.

    An attempt estimates its error by the distance to the Euler step, h/2 [f(t_{n+1}, z_{n+1}) - f(t_n, z_n)], as
    diffrax does; h may change from step to step.

    Reference: Kidger, Foster, Li, Lyons, "Efficient and Accurate Gradients for Neural SDEs", NeurIPS 2021,
    arXiv:2105.13493.
    """

    order = 2
    stages = 1
    history = 2
    reversible = True
    error_order = 2
    noise_reaches_arguments = True  # the first step is started by a value of its own

    def step(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        slope, z = solver_state or (f(node, y), y)
        z = combine(y, ((1.0, axpy(y, z, -1)), (node.h, slope)))
        following = f(node.at(1, 1.0), z)
        return combine(y, ((node.h / 2, slope), (node.h / 2, following))), (following, z)

    def inverse(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        following, z = solver_state
        z = combine(y, ((1.0, axpy(y, z, -1)), (-node.h, following)))
        # f was evaluated there by the step before this one.
        slope = f(Node(node.step - 1, node.t, node.h, 1) if node.step else node, z)
        y = combine(y, ((-node.h / 2, slope), (-node.h / 2, following)))
        return y, (slope, z) if node.step else ()

    def attempt(self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]) -> StepResult:
        solver_state = solver_state or (f(node, y), y)
        following, after = self.step(f, node, y, solver_state)
        return between_slopes(node.h, y, following, solver_state[0], after[0], after)
