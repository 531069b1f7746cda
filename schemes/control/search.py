"""Search: what a method that looks for the best control returns."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

from torch import Tensor

from schemes.control.discretization import DiscretizedProblem
from schemes.errors import Problems

LEAST_TIME = 1e-3
"""The smallest end time, as a share of that at which the search begins."""

NO_NUMBER = "the cost is no number"
"""Why a search has ended."""


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


def require_at_least(method: str, least: float, **values: float) -> None:
    """Raise SchemenetError where an option of a method is no number of at least so much."""
    problems = Problems(f"control method {method!r}: ")
    problems.add(
        *(f"{key} expected at least {least:g}, got {v:g}" for key, v in values.items() if not least <= v < math.inf)
    )
    problems.raise_if_any()


class Method(Protocol):
    """Changes the variables of a discretised problem until its cost is least."""

    def __call__(self, discretized: DiscretizedProblem) -> Search: ...
