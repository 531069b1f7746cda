"""Solves y = base + a f(y) for the state of an implicit step, and differentiates the solution.

Newton's method, its linear systems by GMRES: only products with the Jacobian are asked for. Norms are those of the
whole state, batch included. Derivatives are the implicit function theorem's,

    y = base + a f(y, theta)   =>   dy = (I - a f')^{-1} (dbase + a df/dtheta dtheta),

so that nothing of the iteration is kept or differentiated.

References: Knoll, Keyes, "Jacobian-free Newton-Krylov methods: a survey of approaches and applications", J. Comput.
Phys. 193, 2004; Saad, Schultz, "GMRES", SIAM J. Sci. Stat. Comput. 7, 1986; Bai, Kolter, Koltun, "Deep Equilibrium
Models", NeurIPS 2019, arXiv:1909.01377.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from schemes.counting import count_products
from schemes.errors import SchemenetError
from schemes.node import Node
from schemes.state import RightHandSide, axpy

FORCING = 1e-2
"""How far one linear solve brings the linear residual down; Newton's next step needs no more."""
SHORTEST = 2.0**-8
"""The shortest part of a Newton step that is tried."""


class NoConvergence(SchemenetError):
    """An implicit step was not solved to its tolerance within its limits."""


def plain(y: Tensor) -> Tensor:
    """The numbers of y in a tensor that autograd may watch, without its graph."""
    return y.clone() if y.is_inference() else y.detach()


@dataclass(frozen=True)
class Solver:
    """Limits of a solve. ``tolerance`` is relative; None: eps^(2/3) of the precision that f computes in."""

    tolerance: float | None = None
    iterations: int = 20
    krylov: int = 40

    def solve(self, f: RightHandSide, node: Node, base: Tensor, a: float) -> Tensor:
        """y with y = base + a f(node, y), differentiable in base and in what f depends on.

        Evaluations on the way are trials; the last one, at the solution, is made under the node itself and carries
        the gradient. Raises NoConvergence.
        """
        with torch.inference_mode(False), torch.no_grad():
            y = self._find(f, node, plain(base), a)
        if not torch.is_grad_enabled():
            f(node, y)
            return y
        return self.attach(f, node, base, a, y)

    def attach(self, f: RightHandSide, node: Node, base: Tensor, a: float, y: Tensor) -> Tensor:
        """A solution y made differentiable, by one evaluation there."""
        point = _Cut.apply(y.requires_grad_())
        value = f(node, point)
        return _Solved.apply(axpy(base, value, a), y.detach(), _Pulled(self, node, a, point, value))

    def _find(self, f: RightHandSide, node: Node, base: Tensor, a: float) -> Tensor:
        trial = node._replace(trial=True)
        if base.is_meta:  # no numbers to converge: one trial stands for all of them
            return axpy(base, f(trial, base), a)
        here = _Iterate(f, trial, base, a, base)
        for _ in range(self.iterations):
            if here.size <= self._tolerance(here.precision) * here.scale:
                return here.y
            towards = gmres(here.product, here.residual, FORCING, self.krylov)
            part = 1.0
            there = _Iterate(f, trial, base, a, here.y + towards)
            while not there.size <= (1 - 1e-4 * part) * here.size:
                part /= 2
                if part < SHORTEST or not np.isfinite(here.size):
                    raise self._failure(node, a, here)
                there = _Iterate(f, trial, base, a, here.y + part * towards)
            here = there
        if here.size <= self._tolerance(here.precision) * here.scale:
            return here.y
        raise self._failure(node, a, here)

    def _tolerance(self, precision: torch.dtype) -> float:
        return torch.finfo(precision).eps ** (2 / 3) if self.tolerance is None else self.tolerance

    def _failure(self, node: Node, a: float, here: _Iterate) -> NoConvergence:
        where = f"implicit step {node.step} (t = {node.t:g}, stage {node.stage})"
        if not np.isfinite(here.size):
            return NoConvergence(f"{where}: f gives no number there, or the state is none")
        return NoConvergence(
            f"{where}: y = base + {a:g} f(y) was not solved: relative residual {here.size / here.scale:.1g}, "
            f"expected {self._tolerance(here.precision):.1g}, after at most {self.iterations} Newton iterations of "
            f"{self.krylov} Krylov vectors; take smaller steps (more scheme.substeps or grid.steps), or raise "
            "scheme.iterations, scheme.krylov or scheme.tolerance"
        )


class Linearised:
    """f at one y, and products with its Jacobian without further evaluations of f.

    The Jacobian times a vector is the derivative of u -> f'^T u, which is linear in u.
    """

    def __init__(self, f: RightHandSide, node: Node, y: Tensor) -> None:
        with torch.enable_grad():
            self._at = y.detach().requires_grad_()
            self._value = f(node, self._at)
        self.value: Tensor = self._value.detach()
        self._pulled: tuple[Tensor, Tensor | None] | None = None

    def times(self, v: Tensor) -> Tensor:
        """f'(y) v."""
        if not self._value.requires_grad:
            return torch.zeros_like(v)  # f does not depend on y
        if self._pulled is None:
            with torch.enable_grad():
                u = torch.zeros_like(self._value, requires_grad=True)
                (pulled,) = torch.autograd.grad(self._value, self._at, u, create_graph=True, allow_unused=True)
            self._pulled = u, pulled
            count_products()
        u, pulled = self._pulled
        if pulled is None:
            return torch.zeros_like(v)
        count_products()
        return torch.autograd.grad(pulled, u, v, retain_graph=True)[0]


class _Iterate:
    """One y of Newton's iteration: the residual base + a f(y) - y, and products with I - a f'(y)."""

    def __init__(self, f: RightHandSide, node: Node, base: Tensor, a: float, y: Tensor) -> None:
        self.a, self.y = a, y
        self.linear = Linearised(f, node, y)
        value = self.linear.value
        self.precision = value.dtype
        self.residual = axpy(base, value, a) - y
        self.size = float(self.residual.norm())
        self.scale = max(float(base.norm()), float(y.norm()), abs(a) * float(value.norm()))

    def product(self, v: Tensor) -> Tensor:
        return axpy(v, self.linear.times(v), -self.a)


class _Cut(torch.autograd.Function):
    """The identity, through which no gradient goes on."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        return None


@dataclass(frozen=True)
class _Pulled:
    """The graph of f at the solution, for products with its transposed Jacobian."""

    solver: Solver
    node: Node
    a: float
    point: Tensor
    value: Tensor

    def solve(self, gradient: Tensor) -> Tensor:
        """w with (I - a f'^T) w = gradient."""
        if not self.value.requires_grad:
            return gradient

        def product(w: Tensor) -> Tensor:
            count_products()
            (pulled,) = torch.autograd.grad(
                self.value, self.point, w.to(self.value.dtype), retain_graph=True, allow_unused=True
            )
            return axpy(w, pulled, -self.a)

        tolerance = self.solver._tolerance(self.value.dtype)
        w = torch.zeros_like(gradient)
        remaining, asked = gradient, tolerance * float(gradient.norm())
        for _ in range(self.solver.iterations):
            if not (size := float(remaining.norm())) > asked:
                return w
            w = w + gmres(product, remaining, 0.5 * asked / size, self.solver.krylov)
            remaining = gradient - product(w)
        raise NoConvergence(
            f"implicit step {self.node.step} (stage {self.node.stage}): the gradient's linear system was not solved: "
            f"relative residual {float(remaining.norm() / gradient.norm()):.1g}, expected {tolerance:.1g}; raise "
            "scheme.krylov or scheme.tolerance, or take smaller steps (more scheme.substeps or grid.steps)"
        )


class _Solved(torch.autograd.Function):
    """The solution y, given the graph of base + a f(y) at it."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, y: Tensor, pulled: _Pulled) -> Tensor:
        ctx.pulled = pulled
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():
            raise SchemenetError(
                "an implicit scheme gives first derivatives only (create_graph=True asks for more); second derivatives "
                "need an explicit one"
            )
        return ctx.pulled.solve(gradients[0]), None, None


def gmres(product: Callable[[Tensor], Tensor], b: Tensor, tolerance: float, dimension: int) -> Tensor:
    """x with ||b - A x|| <= tolerance ||b||, or the best of the Krylov space of this dimension.

    One host synchronisation a vector: its column of the Hessenberg matrix, whose least squares are solved there.
    """
    size = b.norm()
    if not float(size) > 0:
        return torch.zeros_like(b)
    basis = [b / size]
    columns: list[list[float]] = []
    coefficients = np.zeros(0)
    for _ in range(dimension):
        w = product(basis[-1])
        column = []
        for v in basis:
            part = (v * w).sum()
            column.append(part)
            w = w - part * v
        length = w.norm()
        columns.append(torch.stack([*column, length]).tolist())
        coefficients, missed = _least_squares(columns)
        if missed <= tolerance or columns[-1][-1] <= 1e-14 * max(map(abs, columns[-1])):
            break
        basis.append(w / length)
    steps = (float(c) * v for c, v in zip(coefficients, basis, strict=False))
    return size * sum(steps, start=torch.zeros_like(b))


def _least_squares(columns: list[list[float]]) -> tuple[np.ndarray, float]:
    """min || e_1 - H c || for the Hessenberg matrix H of these columns: c and the norm."""
    n = len(columns)
    hessenberg = np.zeros((n + 1, n))
    for j, column in enumerate(columns):
        hessenberg[: j + 2, j] = column
    first = np.eye(n + 1)[0]
    if not np.isfinite(hessenberg).all():
        return np.zeros(n), 1.0
    coefficients = np.linalg.lstsq(hessenberg, first, rcond=None)[0]
    return coefficients, float(np.linalg.norm(first - hessenberg @ coefficients))
