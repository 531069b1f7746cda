"""Interpolation: states between the two ends of a step.

Reference: Hairer, Nørsett, Wanner, "Solving Ordinary Differential Equations I", 2nd ed., Springer 1993, section II.6.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from schemes.core.scheme import StepResult
from schemes.core.state import State, combine, has_derivative, lerp
from schemes.core.tableau import ButcherTableau
from schemes.errors import SchemenetError


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


@dataclass(frozen=True)
class Interpolant:
    """The states between the ends of steps, by what each of them leaves behind."""

    starts: list[float]
    end: float
    interpolate: list[Callable[[float], Any]]
    sizes: list[float]
    unpack: Callable[[Any], Any]

    def __reduce__(self) -> Any:
        raise SchemenetError("a dense solution cannot be pickled, it is made of functions; keep its values instead")

    def __call__(self, time: float | Tensor) -> Any:
        t = float(time.detach() if isinstance(time, Tensor) else time)
        low, high = sorted((self.starts[0], self.end))
        slack = 1e-6 * (high - low) or 1e-6 * abs(high)  # an end that went through a tensor in float32
        if not low - slack <= t <= high + slack:
            raise SchemenetError(f"the solution is known from t = {low:g} to {high:g}, got {t:g}")
        backwards = self.sizes[0] < 0
        keys = [-s for s in self.starts] if backwards else self.starts
        step = max(0, bisect.bisect_right(keys, -t if backwards else t) - 1)
        moment: Any = time.double() if isinstance(time, Tensor) and has_derivative(time) else t
        return self.unpack(self.interpolate[step]((moment - self.starts[step]) / self.sizes[step]))
