"""Solves the stages of one step with one Jacobian as long as it serves, to the accuracy that the step is held to.

Newton's method with the Jacobian J of an earlier iterate, which is a fixed-point iteration: its steps shrink by a rate
theta that two of them show, by theta / (1 - theta) of the last step the result is off, and so f is never evaluated just
to see that it is one. Of J only products with vectors are needed, and each of them once: what is known of J is kept
as a matrix on a growing orthonormal basis, in which the systems (I - a J) x = r of all stages are solved.

References: Hairer, Wanner, "Solving Ordinary Differential Equations II", 2nd ed., Springer 1996, section IV.8; Saad,
"Iterative Methods for Sparse Linear Systems", 2nd ed., SIAM 2003, section 6.12 (block Krylov methods).
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
from schemes.nonlinear.newton_krylov import FORCING, Linearised, NoConvergence

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
        self.jacobian: ProjectedJacobian | None = None
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
            self.jacobian = self.jacobian or ProjectedJacobian(here, residual, self.krylov)
            step, size, missed = self._step(self.jacobian, residual, a)
            if (size > SLOW * last or missed > SLOW * size) and max(size, missed) > ACCURACY:
                self.jacobian = ProjectedJacobian(here, residual, self.krylov)
                step, size, missed = self._step(self.jacobian, residual, a)
            if not size < last:
                raise self._failure(node, a, size)
            if np.isfinite(last):
                rate = self.rate = size / last
            y, last = y + step, size
            if rate * size <= (ACCURACY - missed) * (1 - rate):
                return y
        raise self._failure(node, a, last)

    def _step(self, jacobian: ProjectedJacobian, residual: Tensor, a: float) -> tuple[Tensor, float, float]:
        """A Newton step, its size, and by how much the solution of its linear system may be off, in the same unit."""
        step, left = jacobian.solve(residual, a, self.negligible)
        size, missed = (torch.stack((step, left)) / self.scale).reshape(2, -1).square().mean(1).sqrt().tolist()
        return step, size, missed

    def _failure(self, node: Node, a: float, size: float) -> NoConvergence:
        where = f"implicit step {node.step} (t = {node.t:g}, h = {node.h:g}, stage {node.stage})"
        if not np.isfinite(size):
            return NoConvergence(f"{where}: f returned NaN or Inf there, or the state is not finite")
        return NoConvergence(
            f"{where}: y = base + {a:g} f(y) was not solved in {ITERATIONS} Newton iterations of {self.krylov} Krylov "
            f"vectors: the last step is {size:.2g} of the tolerance; take a smaller step"
        )


class ProjectedJacobian:
    """A Jacobian J on a subspace: its products with some of the vectors q_j of an orthonormal basis.

    ``images`` holds the coordinates of J q_j by j. The vectors without one are those to which products and right-hand
    sides (tensors as ``like``) have led and that no system has needed.
    """

    def __init__(self, linear: Linearised, like: Tensor, dimension: int) -> None:
        self.linear, self.dimension = linear, dimension
        self.basis = like.new_empty(0, like.numel())
        self.images: dict[int, np.ndarray] = {}

    def solve(self, r: Tensor, a: float, negligible: float) -> tuple[Tensor, Tensor]:
        """x with (I - a J) x near r, and what is left of r.

        That is at most FORCING of r and of x (where r is large in stiff directions only, x is small, and what is left
        in the others is its error) or ``negligible``, in the Euclidean norm; more, where ``dimension`` products tell no
        better. Where r or a product is not finite, so are both.
        """
        rho = self._coordinates(r)
        while np.isfinite(rho).all() and all(np.isfinite(image).all() for image in self.images.values()):
            rho = np.pad(rho, (0, len(self.basis) - len(rho)))
            system = np.zeros((len(rho), len(self.images)))
            for column, (j, image) in enumerate(self.images.items()):
                system[: len(image), column] = -a * image
                system[j, column] += 1
            x = np.linalg.lstsq(system, rho, rcond=None)[0]
            rest = rho - system @ x
            unseen = [j for j in range(len(rho)) if j not in self.images]
            aim = max(negligible, FORCING * min(np.linalg.norm(rho), np.linalg.norm(x)))
            if np.linalg.norm(rest) <= aim or not unseen or len(x) == self.dimension:
                coordinates = np.zeros((2, len(rho)))
                coordinates[0, list(self.images)], coordinates[1] = x, rest
                solution = torch.tensor(coordinates, dtype=r.dtype, device=r.device) @ self.basis
                return solution[0].view_as(r), solution[1].view_as(r)
            chosen = max(unseen, key=lambda j: abs(rest[j]))
            self.images[chosen] = self._coordinates(self.linear.times(self.basis[chosen].view_as(r)))
        return torch.full_like(r, torch.nan), torch.full_like(r, torch.nan)

    def _coordinates(self, v: Tensor) -> np.ndarray:
        """v in the basis, which takes in what of v is new to it."""
        rest = v.flatten()
        solution = rest.new_zeros(len(self.basis))
        for _ in range(2):  # what the first pass leaves over may be rounding, which is not orthogonal
            part = self.basis @ rest
            solution, rest = solution + part, rest - part @ self.basis
        *coordinates, length = torch.cat((solution, rest.norm().view(1))).tolist()
        if not length <= 10 * torch.finfo(rest.dtype).eps * np.linalg.norm([*coordinates, length]):
            self.basis = torch.cat((self.basis, (rest / length).view(1, -1)))
            coordinates.append(length)
        return np.array(coordinates)


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
