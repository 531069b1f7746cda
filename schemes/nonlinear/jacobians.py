"""The Jacobian J of f at an iterate of Newton's method, and solutions of (I - a J) x = r.

Small systems have J as a matrix, one for each sample where samples do not depend on each other, and one factorisation
for all stages with the same a. Of others only products with vectors are needed, and each of them once: what is known of
J is kept as a matrix on a growing orthonormal basis, in which the systems of all stages are solved.

Reference: Saad, "Iterative Methods for Sparse Linear Systems", 2nd ed., SIAM 2003, section 6.12 (block Krylov methods).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from schemes.nonlinear.linearised import Linearised

FORCING = 1e-2
"""How far a linear solve brings the linear residual down; Newton's next step needs no more."""
MOST = 32
"""Entries of a state, or of a sample of a batch, up to which its Jacobian is a matrix.

Of more entries a few stiff directions may be all that matters, which products find sooner.
"""
GOLDEN = 0.5 * (5**0.5 - 1)


class Jacobian(Protocol):
    """What solves the linear systems of Newton's method."""

    def approximate(self, r: Tensor, a: float, negligible: float) -> tuple[Tensor, Tensor]:
        """x with (I - a J) x near r, and what is left of r; ``negligible`` of it, in the Euclidean norm, may be left.

        Where r or J is not finite, so is x.
        """
        ...


def jacobian(linear: Linearised, like: Tensor, dimension: int) -> Jacobian:
    """The Jacobian at a state, of whose products with vectors at most ``dimension`` are taken if it is large."""
    matrix = jacobian_matrix(linear.transposed_times, like)
    return ProjectedJacobian(linear, like, dimension) if matrix is None else JacobianMatrix(matrix)


def jacobian_matrix(transposed_times: Callable[[Tensor], Tensor], like: Tensor) -> Tensor | None:
    """df_i/dy_j as (samples, n, n): of each sample, or of the whole state as the only one; None where n is above MOST.

    Args:
        transposed_times: u -> J^T u.
        like: the state. Its first dimension counts samples if it has another one, and if a product with a vector of no
            structure shows that f of a sample depends on that sample alone.
    """
    samples = len(like) if like.dim() > 1 else 1
    if samples > 1 and like.numel() <= MOST * samples:
        matrix, u = _matrix(transposed_times, like, samples), _unstructured(like)
        product, rows = transposed_times(u).reshape(samples, 1, -1), u.reshape(samples, 1, -1)
        rounding = 100 * torch.finfo(product.dtype).eps * (rows @ matrix.abs())
        if not bool(((product - rows @ matrix).abs() > rounding).any()):
            return matrix
    return _matrix(transposed_times, like, 1) if like.numel() <= MOST else None


def _matrix(transposed_times: Callable[[Tensor], Tensor], like: Tensor, samples: int) -> Tensor:
    unit = torch.eye(like.numel() // samples, dtype=like.dtype, device=like.device)
    rows = [transposed_times(u.repeat(samples).view_as(like)).reshape(samples, -1) for u in unit]
    return torch.stack(rows, 1)


def _unstructured(like: Tensor) -> Tensor:
    """Numbers from 1/2 to 3/2 that no sum of few terms cancels."""
    numbers = torch.arange(like.numel(), dtype=torch.float64, device=like.device)
    return (0.5 + (numbers * GOLDEN).frac()).to(like.dtype).view_as(like)


class JacobianMatrix:
    """J as one matrix for each sample, (samples, n, n); factorised once for stages with the same a."""

    def __init__(self, matrix: Tensor) -> None:
        self._matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))  # LU has no half precision
        self._unit = torch.eye(matrix.shape[1], dtype=self._matrix.dtype, device=matrix.device)
        self._factors: tuple[float, tuple[Tensor, Tensor]] | None = None

    def solve(self, r: Tensor, a: float) -> Tensor:
        """x with (I - a J) x = r."""
        if self._factors is None or self._factors[0] != a:
            lu, pivots, _ = torch.linalg.lu_factor_ex(self._unit - a * self._matrix)
            self._factors = a, (lu, pivots)
        right = r.reshape(len(self._matrix), -1, 1).to(self._matrix.dtype)
        return torch.linalg.lu_solve(*self._factors[1], right).view_as(r).to(r.dtype)

    def approximate(self, r: Tensor, a: float, negligible: float) -> tuple[Tensor, Tensor]:
        return self.solve(r, a), torch.zeros_like(r)


class ProjectedJacobian:
    """A Jacobian J on a subspace: its products with some of the vectors q_j of an orthonormal basis.

    ``images`` holds the coordinates of J q_j by j. The vectors without one are those to which products and right-hand
    sides (tensors as ``like``) have led and that no system has needed.
    """

    def __init__(self, linear: Linearised, like: Tensor, dimension: int) -> None:
        self.linear, self.dimension = linear, dimension
        self.basis = like.new_empty(0, like.numel())
        self.images: dict[int, np.ndarray] = {}

    def approximate(self, r: Tensor, a: float, negligible: float) -> tuple[Tensor, Tensor]:
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
