"""The asynchronous leapfrog method: MALI."""

from __future__ import annotations

from schemes.core.interpolation import between_slopes
from schemes.core.node import Node
from schemes.core.scheme import Scheme, StepResult
from schemes.core.state import State, VectorField, axpy, combine
from schemes.registry import SCHEMES


@SCHEMES.register("asynchronous_leapfrog")
class AsynchronousLeapfrog(Scheme):
    r"""Asynchronous leapfrog: a state and its velocity v, one evaluation a step; reversible, without coupled parts.

        s = f(t_n + h/2, u_n + h/2 v_n),     v_{n+1} = 2 s - v_n,     u_{n+1} = u_n + h s

    The memory is (v_n), with v_0 = f(t_0, u_0); u is of order 2. Like leapfrog it is stable on the imaginary axis only.
    An attempt estimates its error by the distance to the step with the old velocity, h (s - v_n); h may change from
    step to step.

    Reference: Mutze, "An asynchronous leapfrog method II", 2013, arXiv:1311.6602; Zhuang, Dvornek, Tatikonda, Duncan,
    "MALI: A memory efficient and reverse accurate integrator for Neural ODEs", ICLR 2021, arXiv:2102.04668.
    """

    order = 2
    stages = 1
    history = 1
    reversible = True
    error_order = 2
    noise_reaches_arguments = True  # the first step is started by a value of its own

    def step(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        (v,) = solver_state or (f(node, y),)
        slope = f(node.at(1, 0.5), axpy(y, v, node.h / 2))
        return axpy(y, slope, node.h), (combine(None, ((2.0, slope), (-1.0, v))),)

    def inverse(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        slope = f(node.at(1, 0.5), axpy(y, solver_state[0], -node.h / 2))
        v = combine(None, ((2.0, slope), (-1.0, solver_state[0])))
        return axpy(y, slope, -node.h), (v,) if node.step else ()

    def attempt(self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]) -> StepResult:
        (v,) = solver_state = solver_state or (f(node, y),)
        following, (ahead,) = self.step(f, node, y, solver_state)
        return between_slopes(node.h, y, following, v, ahead, (ahead,))  # s - v_n is half of v_{n+1} - v_n
