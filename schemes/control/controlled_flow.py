"""A trained flow, or another autonomous or time-dependent field, that a control pushes."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from schemes.control.problem import ControlProblem
from schemes.errors import SchemenetError


class ControlledFlow(ControlProblem):
    r"""A field with a control that is added to it; the control costs its square.

        x' = f(t, x) + u(t),    J = Phi(x(T)) + (weight / 2) int_0^T |u|^2 dt

    Args:
        f: the field, called as f(t, x) with t of shape (rows,) and x (rows, states); its weights stay what they are.
        start: x_0, (rows, states); one control serves all rows.
        end_time: T.
        terminal_cost: Phi, (rows, states) -> (rows,).
        weight: of the control.
    """

    def __init__(
        self,
        f: Callable[[Tensor, Tensor], Tensor],
        start: Tensor,
        end_time: float,
        terminal_cost: Callable[[Tensor], Tensor],
        weight: float = 1e-2,
    ) -> None:
        self.f, self.start, self.end_time, self.cost_at_end, self.weight = f, start, end_time, terminal_cost, weight
        self.controls = start.shape[-1] if isinstance(start, Tensor) and start.dim() else 1  # two are checked later
        if not 0 <= weight < math.inf:
            raise SchemenetError(f"ControlledFlow: weight expected at least 0, got {weight!r}")

    def rate(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        slope = self.f(t[:, 0], x)
        if not isinstance(slope, Tensor) or slope.shape != x.shape:
            got = tuple(slope.shape) if isinstance(slope, Tensor) else slope
            raise SchemenetError(f"f expected to return a tensor of the shape of x, {tuple(x.shape)}, got {got}")
        return slope + u

    def running_cost(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return self.weight / 2 * u.square().sum(1)

    def terminal_cost(self, x: Tensor, end_time: Tensor) -> Tensor:
        return self.cost_at_end(x)
