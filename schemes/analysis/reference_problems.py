"""Differential equations on which orders are measured, for tests and figures.

Nonlinear and non-autonomous where a scheme claims an order for every f; a scheme that claims less is measured on what
it claims.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import State, VectorField
from schemes.integration.uniform_grid import UniformGrid

TIME = 4.0
START = (-0.46, 0.2)
"""Where the error of every method is asymptotic: tsit5's leading term is small along many other orbits."""
FLOOR = 1e-13
"""Errors below are rounding: :func:`exact`'s own, and that of hundreds of steps."""


def pendulum(node: Node, y: Tensor) -> Tensor:
    """u'' = -sin u + cos(2t)/2 as a first-order system."""
    angle, speed = y
    return torch.stack((speed, -torch.sin(angle) + math.cos(2 * node.t) / 2))


def separable_pendulum(node: Node, y: Tensor) -> Tensor:
    """The same equation, each component driven by the other one."""
    return y if node.component == 0 else -torch.sin(y) + math.cos(2 * node.t) / 2


def linear_system(node: Node, y: Tensor) -> Tensor:
    """u' = A(t) u, homogeneous and non-autonomous; A(t) and A(s) do not commute."""
    first, second = y
    return torch.stack((-0.3 * first + (1 + math.sin(2 * node.t) / 2) * second, -first - 0.2 * second))


def problem_of(scheme: Scheme) -> tuple[Callable[[Node, State], State], State]:
    """The equation and initial value on which a scheme's declared order holds."""
    start = torch.tensor(START, dtype=torch.float64)
    if scheme.components > 1:
        return separable_pendulum, (start[0], start[1])
    return (linear_system if scheme.problem == "linear" else pendulum), start


def exact(linear: bool) -> Tensor:
    """The state at TIME, of the linear system or of the pendulum, by a solver that is not ours."""
    return exact_at(linear, (TIME,))[0]


@cache
def exact_at(linear: bool, times: tuple[float, ...]) -> Tensor:
    """The states at ascending times up to TIME, (times, 2); see :func:`exact`."""
    from scipy.integrate import solve_ivp

    f = linear_system if linear else pendulum

    def slope(t: float, y: Any) -> Any:
        return f(Node(0, t, 0.0), torch.from_numpy(y)).numpy()

    solved = solve_ivp(slope, (0.0, TIME), START, method="DOP853", t_eval=times, rtol=1e-13, atol=1e-14)
    return torch.from_numpy(solved.y.T.copy())


def error(scheme: Scheme, steps: int) -> float:
    """Distance from the solution at TIME, on the scheme's own problem, in the Euclidean norm."""
    f, start = problem_of(scheme)
    with torch.no_grad():
        result = integrate(scheme, f, start, TIME, steps)
    end = torch.stack(result) if isinstance(result, tuple) else result
    return float((end - exact(f is linear_system)).norm())


def integrate(scheme: Scheme, f: VectorField, y: State, time: float, steps: int) -> State:
    """y(time) of y' = f(node, y), y(0) = y, after ``steps`` equal steps."""
    return polygon(scheme, f, y, time, steps)[-1]


def polygon(scheme: Scheme, f: VectorField, y: State, time: float, steps: int) -> list[State]:
    """The states at the start and after each of ``steps`` equal steps: the vertices of Euler's polygon, or another."""
    scheme.allocate(steps)
    solver_state = scheme.init_state(y)
    states = [y]
    for node in UniformGrid(time=time).nodes(steps):
        y, solver_state = scheme.step(f, node, y, solver_state)
        states.append(y)
    return states
