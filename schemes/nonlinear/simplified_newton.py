"""Solves the stages of one step with one Jacobian as long as it serves, to the accuracy that the step is held to.

Newton's method with the Jacobian J of an earlier iterate, which is a fixed-point iteration: its steps shrink by a rate
theta that two of them show, by theta / (1 - theta) of the last step the result is off, and so f is never evaluated just
to see that it is one.

Reference: Hairer, Wanner, "Solving Ordinary Differential Equations II", 2nd ed., Springer 1996, section IV.8.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from schemes.core.node import Node
from schemes.core.state import VectorField, axpy
from schemes.nonlinear.jacobians import FORCING, Jacobian, jacobian
from schemes.nonlinear.linearised import Linearised
from schemes.nonlinear.newton_krylov import NoConvergence

ACCURACY = 0.01
"""What a solve may be off by, in units of the tolerance of the step."""
SLOW = 0.2
"""The rate above which the Jacobian is computed again."""
ITERATIONS = 8
DEGREE = 3
"""Of the polynomial by which slopes are extrapolated to a stage."""


class StageSolver:
    """Solves y = base + a f(node, y) for stage after stage of one step, without a graph.

    A Newton step is measured by the root mean square of its entries over ``scale``, the tolerance of each.
    """

    def __init__(self, f: VectorField, scale: Tensor, krylov: int) -> None:
        self.f, self.scale, self.krylov = f, scale, krylov
        least = 0.0 if scale.is_meta else float(scale.min())
        self.negligible = 0.1 * ACCURACY * least * scale.numel() ** 0.5
        self.jacobian: Jacobian | None = None
        self.rate = 1.0

    def solve(self, node: Node, base: Tensor, a: float, y: Tensor) -> Tensor:
        """The solution near ``y``, every evaluation a trial. Raises NoConvergence."""
        trial = node._replace(trial=True)
        if y.is_meta:  # no numbers to converge: one trial stands for all of them
            return axpy(base, self.f(trial, y), a)
        last = np.inf
        rate = max(self.rate**0.8, FORCING)  # of the stage before, and not quite as good here
        for _ in range(ITERATIONS):
            here = Linearised(self.f, trial, y)
            residual = axpy(base, here.value, a) - y
            self.jacobian = self.jacobian or jacobian(here, residual, self.krylov)
            step, size, missed = self._step(self.jacobian, residual, a)
            if (size > SLOW * last or missed > SLOW * size) and max(size, missed) > ACCURACY:
                self.jacobian = jacobian(here, residual, self.krylov)
                step, size, missed = self._step(self.jacobian, residual, a)
            if not size < last:
                raise self._failure(node, a, size)
            if np.isfinite(last):
                rate = self.rate = size / last
            y, last = y + step, size
            if rate * size <= (ACCURACY - missed) * (1 - rate):
                return y
        raise self._failure(node, a, last)

    def _step(self, jacobian: Jacobian, residual: Tensor, a: float) -> tuple[Tensor, float, float]:
        """A Newton step, its size, and by how much the solution of its linear system may be off, in the same unit."""
        step, left = jacobian.approximate(residual, a, self.negligible)
        size, missed = (torch.stack((step, left)) / self.scale).reshape(2, -1).square().mean(1).sqrt().tolist()
        return step, size, missed

    def _failure(self, node: Node, a: float, size: float) -> NoConvergence:
        where = f"implicit step {node.step} (t = {node.t:g}, h = {node.h:g}, stage {node.stage})"
        if not np.isfinite(size):
            return NoConvergence(f"{where}: f returned NaN or Inf there, or the state is not finite")
        return NoConvergence(
            f"{where}: y = base + {a:g} f(y) was not solved in {ITERATIONS} Newton iterations: the last "
            f"step is {size:.2g} of the tolerance; take a smaller step"
        )


@cache
def extrapolations(c: Sequence[Any]) -> list[list[tuple[int, float]]]:
    """For each stage the weights of the slopes at earlier abscissae in the polynomial that predicts its own."""
    weights: list[list[tuple[int, float]]] = [[]]
    for stage in range(1, len(c)):
        abscissae, ahead = np.array(c[:stage], dtype=float), float(c[stage])
        powers = np.arange(min(DEGREE + 1, len(np.unique(abscissae))))
        least = np.linalg.lstsq(abscissae ** powers[:, None], ahead**powers, rcond=None)[0]
        weights.append(list(enumerate(least.tolist())))
    return weights
