"""Solution: the result of a solve."""

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

    A dense solution can be called at any time between the first and the last.

    Attributes:
        values: the states, shape (times, ...).
        times: the output times; of a partial result those that were passed.
        statistics: counts, and the accepted steps.
        status: "done", "event", or the name of the error of which this is the partial result.
        interpolant: the dense output, None where ``dense`` was not set.
    """

    values: Any
    times: Tensor
    statistics: Statistics
    status: str = "done"
    interpolant: Callable[[float | Tensor], Any] | None = None

    def __call__(self, t: float | Tensor) -> Any:
        """The state at time t, a number or a tensor without dimensions; it has the derivative by t."""
        if self.interpolant is None:
            raise SchemenetError("this solution has its output times only; use solve(..., dense=True)")
        return self.interpolant(t)
