r"""Bases of functions of time on [0, 1], and the L2 projection from one to another.

Reference: Queiruga, Erichson, Hodgkinson, Mahoney, "Stateful ODE-Nets using Basis Function Expansions", NeurIPS 2021,
arXiv:2106.10820.
"""

from __future__ import annotations

import abc
import bisect
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

NEAR = 1e-9
"""Times nearer to a knot than this are at it."""

QUADRATURE = 32
"""Gauss points in each piece: exact for polynomials up to degree 63, and to rounding for up to 16 waves a piece."""


class FunctionBasis(abc.ABC):
    """Functions phi_0, ..., phi_{size-1} on [0, 1].

    Args:
        size: how many; one alone is the constant 1.
    """

    smooth: ClassVar[bool] = True
    continuous: ClassVar[bool] = True
    local: ClassVar[bool] = False
    """Whether coefficients are values at places, so that each of them begins like a field of its own, and the sum at
    any time is an average of them."""

    def __init__(self, size: int) -> None:
        self.size = size

    @abc.abstractmethod
    def values(self, t: Any, between: tuple[float, float] | None = None) -> Sequence[Any]:
        """The values of all functions at a time, numbers or tensors like ``t``.

        Args:
            t: the time, in [0, 1].
            between: a step around it, from inside of which the limits at a jump are taken.
        """

    @property
    def knots(self) -> tuple[float, ...]:
        """Times in (0, 1) between which the functions are smooth."""
        return ()


class PiecewiseConstant(FunctionBasis):
    """One on [k / size, (k + 1) / size), and zero elsewhere."""

    smooth = continuous = False
    local = True

    def values(self, t: Any, between: tuple[float, float] | None = None) -> Sequence[Any]:
        piece = bisect.bisect_right(self.knots, float(t))
        if between is not None:
            first = bisect.bisect_right(self.knots, min(between) + NEAR)
            last = bisect.bisect_left(self.knots, max(between) - NEAR)
            piece = min(max(piece, first), last)
        return [float(k == piece) for k in range(self.size)]

    @property
    def knots(self) -> tuple[float, ...]:
        return tuple(k / self.size for k in range(1, self.size))


class Hat(FunctionBasis):
    """Continuous and linear between the knots k / (size - 1), one at the k-th and zero at all others."""

    smooth = False
    local = True

    def values(self, t: Any, between: tuple[float, float] | None = None) -> Sequence[Any]:
        if self.size == 1:
            return [1.0]
        x = t * (self.size - 1)
        if isinstance(x, Tensor):
            return [(1 - (x - k).abs()).clamp_min(0.0) for k in range(self.size)]
        if abs(x - round(x)) < NEAR:
            x = round(x)
        return [max(0.0, 1.0 - abs(x - k)) for k in range(self.size)]

    @property
    def knots(self) -> tuple[float, ...]:
        return tuple(k / (self.size - 1) for k in range(1, self.size - 1))


class Legendre(FunctionBasis):
    """The Legendre polynomials P_k(2 t - 1), orthogonal on [0, 1]."""

    def values(self, t: Any, between: tuple[float, float] | None = None) -> Sequence[Any]:
        x = 2 * t - 1
        values: list[Any] = [1.0, x]
        for k in range(1, self.size - 1):
            values.append(((2 * k + 1) * x * values[k] - k * values[k - 1]) / (k + 1))
        return values[: self.size]


class Fourier(FunctionBasis):
    """1, sin 2 pi t, cos 2 pi t, sin 4 pi t, ...: weights at the end are those at the start."""

    def values(self, t: Any, between: tuple[float, float] | None = None) -> Sequence[Any]:
        values: list[Any] = [1.0]
        for k in range(1, self.size):
            angle = 2 * math.pi * ((k + 1) // 2) * t
            sine = k % 2 == 1
            if isinstance(angle, Tensor):
                values.append(torch.sin(angle) if sine else torch.cos(angle))
            else:
                values.append(math.sin(angle) if sine else math.cos(angle))
        return values


BASES: Mapping[str, type[FunctionBasis]] = {
    "piecewise_constant": PiecewiseConstant, "hat": Hat, "legendre": Legendre, "fourier": Fourier,
}  # fmt: skip


def projection(old: FunctionBasis, new: FunctionBasis) -> Tensor:
    r"""The matrix B of the L2 projection between two bases: coefficients b = B a.

        G b = M a,    G_jl = int_0^1 psi_j psi_l dt,    M_ji = int_0^1 psi_j phi_i dt

    Args:
        old: the functions phi.
        new: the functions psi.

    Returns:
        A matrix (new.size, old.size) in double precision. Where the new functions span the old ones, the function stays
        what it is.
    """
    if type(old) is type(new) and old.size == new.size:
        return torch.eye(old.size, dtype=torch.float64)
    points, weights = np.polynomial.legendre.leggauss(QUADRATURE)
    ends = sorted({0.0, 1.0, *old.knots, *new.knots})
    gram, mixed = np.zeros((new.size, new.size)), np.zeros((new.size, old.size))
    for start, end in itertools.pairwise(ends):
        for point, weight in zip(points, weights, strict=True):
            t = start + (end - start) * (1 + point) / 2
            phi, psi = np.array(old.values(t)), np.array(new.values(t))
            gram += weight * (end - start) / 2 * np.outer(psi, psi)
            mixed += weight * (end - start) / 2 * np.outer(psi, phi)
    matrix = np.linalg.solve(gram, mixed)
    whole = np.round(matrix)  # of functions that are copied: those weights stay what they are to the bit
    return torch.from_numpy(np.where(np.abs(matrix - whole) < NEAR, whole, matrix))
