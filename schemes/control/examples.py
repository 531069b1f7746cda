"""Control problems whose solution is known."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from schemes.control.problem import ControlProblem
from schemes.errors import Problems
from schemes.registry import CONTROL_PROBLEMS


@CONTROL_PROBLEMS.register("car")
class Car(ControlProblem):
    r"""A car that is to stand still at a distance d, in least time.

        x' = v,   v' = u,   |u| <= 1,   (x, v)(0) = (0, 0),   (x, v)(T) = (d, 0),   J = T

    The best control is 1 up to T / 2 and -1 from there on: T = 2 sqrt(d).

    Args:
        distance: d.

    Reference: Pontryagin, Boltyanskii, Gamkrelidze, Mishchenko, "The Mathematical Theory of Optimal Processes", Wiley,
    1962.
    """

    controls = 1
    free_end_time = True
    lower, upper = -1.0, 1.0

    def __init__(self, distance: float = 1.0) -> None:
        _require("car", distance=distance)
        self.distance = distance
        self.start = torch.zeros(1, 2, dtype=torch.float64)
        self.end_time = 3 * math.sqrt(distance)

    def rate(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return torch.cat((x[:, 1:], u), dim=1)

    def terminal_cost(self, x: Tensor, end_time: Tensor) -> Tensor:
        return end_time

    def terminal_constraint(self, x: Tensor) -> Tensor:
        return x - x.new_tensor([self.distance, 0.0])

    @property
    def best_cost(self) -> float:
        return 2 * math.sqrt(self.distance)


@CONTROL_PROBLEMS.register("linear_quadratic")
class LinearQuadratic(ControlProblem):
    r"""An oscillator that is to come to rest, where both distance and control cost.

        x' = v,   v' = -x + u,   (x, v)(0) = (1, 0),
        J = |(x, v)(T)|^2 / 2 + int_0^T (|(x, v)|^2 + r u^2) / 2 dt

    The best control is u = -B^T P(t) (x, v) / r, and J = (x, v)_0^T P(0) (x, v)_0 / 2, where P solves Riccati's
    equation -P' = A^T P + P A - P B B^T P / r + I, P(T) = I.

    Args:
        time: T.
        weight: r, the cost of the control.

    Reference: Kalman, "Contributions to the theory of optimal control", Bol. Soc. Mat. Mexicana 5, 1960.
    """

    controls = 1

    def __init__(self, time: float = 2.0, weight: float = 0.5) -> None:
        _require("linear_quadratic", time=time, weight=weight)
        self.end_time, self.weight = time, weight
        self.start = torch.tensor([[1.0, 0.0]], dtype=torch.float64)

    def rate(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return torch.cat((x[:, 1:], u - x[:, :1]), dim=1)

    def running_cost(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return (x.square().sum(1) + self.weight * u.square().sum(1)) / 2

    def terminal_cost(self, x: Tensor, end_time: Tensor) -> Tensor:
        return x.square().sum(1) / 2

    def riccati(self, time: float) -> np.ndarray:
        """P(t), (2, 2)."""
        a, b = np.array([[0.0, 1.0], [-1.0, 0.0]]), np.array([[0.0], [1.0]])

        def slope(_: float, flat: np.ndarray) -> np.ndarray:
            p = flat.reshape(2, 2)
            return -(a.T @ p + p @ a - p @ b @ b.T @ p / self.weight + np.eye(2)).ravel()

        solved = solve_ivp(slope, (self.end_time, time), np.eye(2).ravel(), method="LSODA", rtol=1e-12, atol=1e-13)
        return solved.y[:, -1].reshape(2, 2)

    @property
    def best_cost(self) -> float:
        x = self.start[0].numpy()
        return float(x @ self.riccati(0.0) @ x) / 2


def _require(name: str, **values: float) -> None:
    problems = Problems(f"control problem {name!r}: ")
    problems.add(
        *(f"{key} expected a number above 0, got {value}" for key, value in values.items() if not 0 < value < math.inf)
    )
    problems.raise_if_any()
