"""The slope by which a solution varies with its own times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from schemes.core.state import State, flatten, rows_where, unflatten

if TYPE_CHECKING:
    from schemes.gradients.base import Slope


def of_no_length(times: Any) -> list[bool]:
    """Which rows of times have no length; one, where all samples have the same."""
    return [row[0] == row[-1] for row in (times if isinstance(times[0], list) else [times])]


def slopes_by_time(slope: Slope, times: Any, rows: int) -> Slope:
    """Computes the slope by which a solution over these times moves with them."""
    no_length = of_no_length(times)
    no_length *= rows // len(no_length)
    if not any(no_length) or torch._C._are_functorch_transforms_active():  # which hide the numbers
        return slope
    return SlopesOfNoLength(slope, no_length)


class SlopesOfNoLength:
    """Slopes where rows of the state are solved over no length, ``no_length`` telling which.

    Such a row is y0 whatever f is, so f may be singular there. The row's derivative by its times is f, and zero in the
    entries where f is not finite. Zero times the derivatives of f at a singular point would be NaN, so f is evaluated
    there without a graph, and with one at another row in its place.
    """

    def __init__(self, slope: Slope, no_length: Sequence[bool]) -> None:
        self.slope, self.no_length = slope, no_length

    def __call__(self, t: Any, y: State) -> State:
        with torch.no_grad():
            values, shape = flatten(self.slope(t, y))
        rows = len(self.no_length)
        finite = [torch.isfinite(value) for value in values]
        singular = torch.tensor(self.no_length, device=values[0].device)
        singular &= ~torch.stack([part.reshape(rows, -1).all(1) for part in finite]).all(0)
        constants = [torch.where(part, value, 0) for part, value in zip(finite, values, strict=True)]
        if singular.all():
            return unflatten(constants, shape)
        if not singular.any():
            return self.slope(t, y) if torch.is_grad_enabled() else unflatten(values, shape)
        regular = torch.arange(rows, device=singular.device)
        regular[singular] = regular[~singular][0]
        leaves, of_state = flatten(y)
        slopes = self.slope(t[regular], unflatten([leaf[regular] for leaf in leaves], of_state))
        return rows_where(singular, unflatten(constants, shape), slopes)
