"""Search: what a method that looks for the best control returns."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from schemes.control.discretization import DiscretizedProblem

LEAST_TIME = 1e-3
"""The smallest end time, as a share of that at which the search begins."""


class Search(NamedTuple):
    """How a search ended; the control itself is in the problem's variables.

    Attributes:
        converged: whether it met its tolerance.
        message: why it ended.
        iterations: how many there were.
        evaluations: solves of the equation.
        multipliers: of the terminal constraint: (rows x constraints,).
    """

    converged: bool
    message: str
    iterations: int
    evaluations: int
    multipliers: Tensor


class Method(Protocol):
    """Changes the variables of a discretised problem until its cost is least."""

    def __call__(self, discretized: DiscretizedProblem) -> Search: ...
