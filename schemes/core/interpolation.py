"""States between the two ends of a step.

Reference: Hairer, Nørsett, Wanner, "Solving Ordinary Differential Equations I", 2nd ed., Springer 1993, section II.6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from schemes.core.scheme import StepResult
from schemes.core.state import State, combine, lerp
from schemes.core.tableau import ButcherTableau


def hermite(theta: Any, h: Any, y0: State, y1: State, slope0: State, slope1: State) -> State:
    """The cubic through both ends with their slopes at t + theta h: error O(h^4)."""
    rest = theta * (theta - 1)
    line = lerp(y0, y1, theta)
    bend = combine(None, ((rest * (1 - 2 * theta), y1), (-rest * (1 - 2 * theta), y0)))
    return combine(line, ((1.0, bend), (rest * (theta - 1) * h, slope0), (rest * theta * h, slope1)))


def horner(polynomial: Sequence[Any], theta: Any) -> Any:
    """sum_j polynomial[j] theta^(j+1)."""
    value = 0.0
    for coefficient in reversed(polynomial):
        value = (value + float(coefficient)) * theta
    return value


def extension(
    tableau: ButcherTableau, h: Any, y: State, following: State, k: Sequence[State]
) -> Callable[[Any], State]:
    """The state at t + theta h of a pair with these slopes: its own continuous extension, or the cubic."""
    dense = tableau.dense
    if dense is None:
        return lambda theta: hermite(theta, h, y, following, k[0], k[-1])
    return lambda theta: combine(y, ((h * horner(p, theta), k[i]) for i, p in enumerate(dense) if any(p)))


def between_slopes(
    h: Any, y: State, following: State, slope: State, ahead: State, solver_state: tuple[State, ...]
) -> StepResult:
    """The attempt of a method that knows slopes at both ends: its error is h/2 times their difference."""

    def error() -> State:
        return combine(None, ((h / 2, ahead), (-h / 2, slope)))

    return StepResult(following, solver_state, error, lambda theta: hermite(theta, h, y, following, slope, ahead))
