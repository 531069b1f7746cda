"""What a solve returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from schemes.core.evaluation_counts import Statistics
from schemes.errors import SchemenetError


@dataclass(frozen=True)
class Solution:
    """States at the output times, stacked along a new first dimension, in the form of the initial state.

    ``status`` is "done", or the name of the error of which this is the partial result: ``times`` are then those that
    were passed. A solution that was asked to be ``dense`` can be called at any time between the first and the last.
    """

    values: Any
    times: Tensor
    statistics: Statistics
    status: str = "done"
    interpolant: Callable[[float | Tensor], Any] | None = None

    def __call__(self, t: float | Tensor) -> Any:
        """The state at time t, a number or a tensor without dimensions; it has the derivative by t."""
        if self.interpolant is None:
            raise SchemenetError("this solution knows its output times only; ask for solve(..., dense=True)")
        return self.interpolant(t)
