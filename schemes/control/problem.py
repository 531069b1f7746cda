"""Control problem: an equation with a control, and what it costs."""

from __future__ import annotations

import abc
import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from schemes.errors import Problems, SchemenetError
from schemes.schema import objection


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

    def check(self) -> None:
        """Raise SchemenetError with all that is wrong with the attributes, or with the shapes of what is returned."""
        problems = Problems(f"control problem {type(self).__name__}: ")
        start = getattr(self, "start", None)
        if not isinstance(start, Tensor) or start.dim() != 2 or not start.is_floating_point():
            got = f"{start.dtype} of shape {tuple(start.shape)}" if isinstance(start, Tensor) else repr(start)
            problems.add(f"start: expected a tensor of floating-point numbers, (rows, states), got {got}")
        if objection(getattr(self, "controls", None), "int") is not None or self.controls < 1:
            problems.add(f"controls: expected a whole number of at least 1, got {getattr(self, 'controls', None)!r}")
        if objection(self.end_time, "float") is not None or not 0 < self.end_time < math.inf:
            problems.add(f"end_time: expected a number above 0, got {self.end_time!r}")
        problems.raise_if_any()
        try:
            lower, upper = self.bounds()
        except (RuntimeError, TypeError, ValueError) as error:
            bounds = f"lower={self.lower!r}, upper={self.upper!r}"
            raise SchemenetError(
                f"control problem {type(self).__name__}: expected a number or {self.controls} as lower and upper, got "
                f"{bounds}"
            ) from error
        if not bool((lower <= upper).all()):
            problems.add(f"expected lower <= upper, got lower={self.lower!r}, upper={self.upper!r}")
        problems.add(*self._wrong_shapes())
        problems.raise_if_any()

    def _wrong_shapes(self) -> list[str]:
        x, rows = self.start, len(self.start)
        t, end_time = x.new_zeros(rows, 1), x.new_full((rows,), self.end_time)
        lower, upper = (end.to(x) for end in self.bounds())
        u = torch.minimum(torch.maximum(x.new_full((rows, self.controls), self.first_control), lower), upper)
        with torch.no_grad():
            results: list[tuple[str, Any, str, bool]] = []
            for name, value, shape in (
                ("rate", self.rate(t, x, u), tuple(x.shape)),
                ("running_cost", self.running_cost(t, x, u), (rows,)),
                ("terminal_cost", self.terminal_cost(x, end_time), (rows,)),
            ):
                fits = isinstance(value, Tensor) and tuple(value.shape) == shape
                results.append((name, value, f"a tensor of shape {shape}", fits))
            value = self.terminal_constraint(x)
            fits = isinstance(value, Tensor) and value.dim() == 2 and len(value) == rows
            results.append(("terminal_constraint", value, f"a tensor of shape ({rows}, constraints)", fits))
        return [
            f"{name} expected to return {expected}, got {tuple(value.shape) if isinstance(value, Tensor) else value!r}"
            for name, value, expected, fits in results
            if not fits
        ]
