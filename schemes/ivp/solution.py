"""What a solve returns."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from schemes.core.evaluation_counts import SolverCounts
from schemes.core.state import has_derivative
from schemes.errors import SchemenetError


@dataclass(frozen=True)
class Statistics:
    """Counts of a solve: ``backward`` is filled when gradients are taken (under backprop autograd does it uncounted).

    ``times`` are the starts of the accepted steps and ``step_sizes`` their signed sizes. Where each sample has steps of
    its own these are lists of such lists, and ``samples`` what each was asked for (``forward`` is all of it, with the
    evaluations of whole batches).
    """

    forward: SolverCounts
    backward: SolverCounts
    times: list[Any] = field(default_factory=list)
    step_sizes: list[Any] = field(default_factory=list)
    samples: list[SolverCounts] | None = None

    def __str__(self) -> str:
        forward, backward = self.forward, self.backward
        return (
            f"{forward.evaluations} evaluations forward, {backward.evaluations} backward with "
            f"{backward.jacobian_products} products; {forward.accepted} steps accepted, {forward.rejected} rejected"
        )


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
