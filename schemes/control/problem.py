"""Control problem: an equation with a control, and what it costs."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from schemes.errors import Problems, SchemenetError, located
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
        first_control: where the search begins, a number or one for each; moved to the bounds where it is outside.
    """

    start: Tensor
    controls: int
    end_time: float = 1.0
    free_end_time: ClassVar[bool] = False
    lower: float | tuple[float, ...] = -math.inf
    upper: float | tuple[float, ...] = math.inf
    first_control: float | tuple[float, ...] = 0.0

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
        return self._of_each_control(self.lower), self._of_each_control(self.upper)

    def first_controls(self) -> Tensor:
        """``first_control`` for each control, within the bounds, (controls,)."""
        lower, upper = self.bounds()
        return torch.minimum(torch.maximum(self._of_each_control(self.first_control), lower), upper).to(self.start)

    def _of_each_control(self, value: float | tuple[float, ...]) -> Tensor:
        return torch.as_tensor(value, dtype=self.start.dtype).expand(self.controls)

    def check(self) -> None:
        """Raise SchemenetError with all that is wrong with the attributes, or with the shapes of what is returned."""
        problems = Problems(self._prefix)
        start = getattr(self, "start", None)
        if not isinstance(start, Tensor) or start.dim() != 2 or not start.is_floating_point():
            got = f"{start.dtype} of shape {tuple(start.shape)}" if isinstance(start, Tensor) else repr(start)
            problems.add(f"start: expected a tensor of floating-point numbers, (rows, states), got {got}")
        elif not start.numel() or not bool(start.isfinite().all()):
            got = f"shape {tuple(start.shape)}" if not start.numel() else "NaN or infinity"
            problems.add(f"start: expected finite states, in a row at least, got {got}")
        if objection(getattr(self, "controls", None), "int") is not None or self.controls < 1:
            problems.add(f"controls: expected a whole number of at least 1, got {getattr(self, 'controls', None)!r}")
        if objection(self.end_time, "float") is not None or not 0 < self.end_time < math.inf:
            problems.add(f"end_time: expected a number above 0, got {self.end_time!r}")
        if (wrong := objection(self.free_end_time, "bool")) is not None:
            problems.add(f"free_end_time: {wrong}")
        problems.raise_if_any()
        problems.add(*self._wrong_bounds())
        problems.raise_if_any()
        self.check_shapes()

    def _wrong_bounds(self) -> list[str]:
        wrong = []
        for name in ("lower", "upper", "first_control"):
            value = getattr(self, name)
            try:
                self._of_each_control(value)
            except (RuntimeError, TypeError, ValueError):
                wrong.append(f"expected a number or {self.controls} as {name}, got {name}={value!r}")
        if wrong:
            return wrong
        lower, upper = self.bounds()
        if not bool(((lower <= upper) & (lower < math.inf) & (upper > -math.inf)).all()):
            wrong.append(f"expected lower <= upper, got lower={self.lower!r}, upper={self.upper!r}")
        elif bool((lower == upper).all()) and not self.free_end_time:
            wrong.append(f"lower and upper are {self.lower!r} both, which leaves no control to find; expected a range")
        if not bool(self._of_each_control(self.first_control).isfinite().all()):
            wrong.append(f"first_control: expected finite numbers, got {self.first_control!r}")
        return wrong

    def check_shapes(self, times: int = 1) -> None:
        """Raise SchemenetError where a function does not return the shape that it should, or fails.

        Args:
            times: how many times the states of ``start`` are passed to those functions that get states at several.
        """
        x, rows = self.start.detach(), len(self.start)
        several = x.repeat(times, 1)
        t, u = several.new_zeros(len(several), 1), self.first_controls().expand(len(several), -1)
        functions: list[tuple[str, Callable[[], Any], tuple[int | str, ...]]] = [
            ("rate", lambda: self.rate(t, several, u), (len(several), x.shape[1])),
            ("running_cost", lambda: self.running_cost(t, several, u), (len(several),)),
            ("terminal_cost", lambda: self.terminal_cost(x, x.new_full((rows,), self.end_time)), (rows,)),
            ("terminal_constraint", lambda: self.terminal_constraint(x), (rows, "constraints")),
        ]
        problems = Problems(self._prefix)
        with torch.no_grad():
            for name, function, shape in functions:
                try:
                    value = function()
                except SchemenetError as error:
                    problems.add(str(error))
                except Exception as error:
                    problems.add(f"{name} failed for {len(several)} rows: {located(error)}")
                else:
                    problems.add(*_wrong_result(name, value, shape))
        problems.raise_if_any()

    @property
    def _prefix(self) -> str:
        return f"control problem {type(self).__name__}: "


def _wrong_result(name: str, value: Any, shape: tuple[int | str, ...]) -> list[str]:
    """What is wrong with a function's result; a word in the shape stands for any number."""
    expected = f"{name} expected to return a tensor of shape ({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
    if not isinstance(value, Tensor):
        return [f"{expected}, got {value!r}"]
    fits = value.dim() == len(shape)
    fits = fits and all(isinstance(n, str) or n == got for n, got in zip(shape, value.shape, strict=True))
    return [] if fits else [f"{expected}, got {tuple(value.shape)}"]
