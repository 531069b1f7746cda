"""Control problem: an equation with a control, and what it costs."""

from __future__ import annotations

import abc
import math
from typing import ClassVar

import torch
from torch import Tensor


class ControlProblem(abc.ABC):
    r"""The control u(t), and where it is free the end time T, for which a cost is least:

        J = Phi(x(T), T) + int_0^T L(t, x, u) dt,    x' = f(t, x, u),    x(0) = x_0,
        lower <= u <= upper,                         c(x(T)) = 0.

    A subclass sets ``start`` and ``controls``, implements :meth:`rate`, and whichever of the others its problem has.
    All of them get rows: several initial states under one control, whose mean cost is minimised, and in one call
    states at several times.

    Attributes:
        start: x_0, (rows, states), on the device and in the dtype of the computation; double precision for many digits.
        controls: the number of controls.
        end_time: T; where it is free, that at which the search begins.
        free_end_time: whether T is to be found.
        lower: least value of the controls, a number or one for each; none where it is infinite.
        upper: largest value.
        first_control: where the search begins.
    """

    start: Tensor
    controls: int
    end_time: float = 1.0
    free_end_time: ClassVar[bool] = False
    lower: float | tuple[float, ...] = -math.inf
    upper: float | tuple[float, ...] = math.inf
    first_control: float = 0.0

    @abc.abstractmethod
    def rate(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """f(t, x, u), (rows, states).

        Args:
            t: times, (rows, 1).
            x: states, (rows, states).
            u: controls, (rows, controls).
        """

    def running_cost(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """L(t, x, u), (rows,); arguments as of :meth:`rate`."""
        return x.new_zeros(len(x))

    def terminal_cost(self, x: Tensor, end_time: Tensor) -> Tensor:
        """Phi(x(T), T), (rows,).

        Args:
            x: states at the end, (rows, states).
            end_time: T, (rows,).
        """
        return x.new_zeros(len(x))

    def terminal_constraint(self, x: Tensor) -> Tensor:
        """c(x(T)), (rows, constraints), which is to be zero."""
        return x.new_zeros(len(x), 0)

    @property
    def best_cost(self) -> float | None:
        """The least J among all controls, where it is known in closed form."""
        return None

    def bounds(self) -> tuple[Tensor, Tensor]:
        """``lower`` and ``upper`` for each control, (controls,) each."""
        ends = (torch.as_tensor(end, dtype=self.start.dtype) for end in (self.lower, self.upper))
        lower, upper = (end.expand(self.controls) for end in ends)
        return lower, upper
