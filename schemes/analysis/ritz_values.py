"""Ritz values: eigenvalues of a linear map of which only products are available.

The Jacobian of a field on feature maps has as many rows as the maps have numbers, some 10^4, and is never formed. m
steps of Arnoldi's method build an orthonormal basis Q of the Krylov space of a random vector, and H = Q^T J Q; the
eigenvalues theta of H, the Ritz values, approach eigenvalues of J, those on the outside of the spectrum first (the
largest in magnitude, the furthest to the right and to the left). The residual of each, |J x - theta x| for its unit
vector x = Q s, is known without another product: |h_{m+1,m}| |s_m|. It says that theta is an exact eigenvalue of a
matrix that close to J; how close to an eigenvalue of J itself, that depends on how far J is from normal.

References: Arnoldi, "The principle of minimized iterations in the solution of the matrix eigenvalue problem", Quart.
Appl. Math. 9, 1951; Saad, "Numerical Methods for Large Eigenvalue Problems", 2nd ed., SIAM 2011, chapter 6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from schemes.core.node import Node
from schemes.core.state import State, VectorField
from schemes.errors import NonFiniteError
from schemes.nonlinear.linearised import Linearised


class Ritz(NamedTuple):
    """Ritz values of each row of a batch, the largest first, and their residuals: complex and real (batch, m)."""

    values: np.ndarray
    residuals: np.ndarray

    def within(self, tolerance: float) -> list[complex]:
        """Those of all rows whose residual is at most ``tolerance`` times the largest of their row."""
        least = tolerance * np.abs(self.values[:, :1])
        return [complex(value) for value in self.values[self.residuals <= least]]


def ritz(product: Callable[[Tensor], Tensor], like: Tensor, steps: int, seed: int = 0) -> Ritz:
    """``steps`` steps of Arnoldi's method (at most as many as a row has numbers) for each row of a batch at once.

    ``product`` maps a tensor of the shape, dtype and device of ``like``, (batch, ...), to another one, each row by a
    matrix of its own. ``scipy.sparse.linalg.eigs`` takes one matrix at a time and an open number of products; here
    each of ``steps`` products serves the whole batch. Raises NonFiniteError.
    """
    batch, size = like.shape[0], like[0].numel()
    steps = min(steps, size)
    generator = torch.Generator().manual_seed(seed)

    def random() -> Tensor:
        return torch.randn(batch, size, generator=generator, dtype=like.dtype).to(like.device)

    basis = like.new_zeros(batch, steps + 1, size)
    hessenberg = like.new_zeros(batch, steps + 1, steps)
    basis[:, 0] = torch.nn.functional.normalize(random())
    for j in range(steps):
        previous = basis[:, : j + 1]
        image = product(basis[:, j].view_as(like)).reshape(batch, size)
        along, rest = _project(image, previous)
        hessenberg[:, : j + 1, j] = along
        length = rest.norm(dim=1)
        # Where nothing is left the space is invariant, and its Ritz values are exact; a new direction is as good.
        ended = length <= 100 * torch.finfo(like.dtype).eps * image.norm(dim=1)
        if bool(ended.any()) and j + 1 < size:
            rest[ended] = _project(random(), previous)[1][ended]
        hessenberg[:, j + 1, j] = torch.where(ended, 0.0, length)
        basis[:, j + 1] = torch.nn.functional.normalize(rest)
    matrix = hessenberg.cpu().double().numpy()
    if not np.isfinite(matrix).all():
        raise NonFiniteError("products with the matrix are NaN or infinite")
    values, vectors = np.linalg.eig(matrix[:, :steps])
    residuals = np.abs(matrix[:, steps, steps - 1, None] * vectors[:, -1])
    order = np.argsort(-np.abs(values), axis=1, kind="stable")
    return Ritz(np.take_along_axis(values, order, 1), np.take_along_axis(residuals, order, 1))


def _project(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates of each row's vector along its basis, and what is left; twice, so that rounding leaves nothing."""
    along = torch.zeros_like(basis[:, :, 0])
    for _ in range(2):
        step = torch.einsum("bjn,bn->bj", basis, vector)
        along, vector = along + step, vector - torch.einsum("bj,bjn->bn", step, basis)
    return along, vector


def scaled_jacobian(f: VectorField, node: Node, y: State) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """v -> h df/dy(y) v, and a tensor like v; rows of the batch must not depend on one another.

    For a coupled state x' = f_0(y), y' = f_1(x) the Jacobian is that of the whole, [[0, f_0'], [f_1', 0]], and v has a
    dimension for the component behind the batch's.
    """
    if isinstance(y, Tensor):
        at = Linearised(f, node, y)
        return lambda v: node.h * at.times(v), y
    parts = [Linearised(f, node.at(component=i), y[1 - i]) for i in range(2)]

    def product(v: Tensor) -> Tensor:
        return node.h * torch.stack([part.times(v[:, 1 - i]) for i, part in enumerate(parts)], dim=1)

    return product, torch.stack(y, dim=1)


def spread_over(steps: Sequence[object], most: int) -> list[int]:
    """The indices of at most ``most`` of them, the first and the last among them, evenly spaced."""
    return sorted({round(i) for i in np.linspace(0, len(steps) - 1, min(most, len(steps)))})
