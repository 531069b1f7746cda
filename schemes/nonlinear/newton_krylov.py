"""Solves y = base + a f(y) for the state of an implicit step, and differentiates the solution.

What is solved for is the increment z = y - base, whose rounding errors are those of a small number. Newton's method,
its linear systems by matrices where they are small, else by GMRES, which needs products with the Jacobian alone. Norms
are those of the whole state, batch included. Derivatives are the implicit function theorem's,

    y = base + a f(y, theta)   =>   dy = (I - a f')^{-1} (dbase + a df/dtheta dtheta),

so that nothing of the iteration is kept or differentiated.

References: Knoll, Keyes, "Jacobian-free Newton-Krylov methods: a survey of approaches and applications", J. Comput.
Phys. 193, 2004; Saad, Schultz, "GMRES", SIAM J. Sci. Stat. Comput. 7, 1986; Bai, Kolter, Koltun, "Deep Equilibrium
Models", NeurIPS 2019, arXiv:1909.01377; Eisenstat, Walker, "Choosing the Forcing Terms in an Inexact Newton Method",
SIAM J. Sci. Comput. 17, 1996.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from schemes.core.evaluation_counts import count_products
from schemes.core.node import Node
from schemes.core.state import State, VectorField, axpy, flatten
from schemes.core.untracked_leaves import leaves
from schemes.errors import SchemenetError
from schemes.nonlinear.jacobians import FORCING, JacobianMatrix, jacobian_matrix
from schemes.nonlinear.linearised import Linearised

NO_TRANSFORMS = (
    "an implicit scheme is differentiated by backward() and torch.autograd.grad alone; transforms of torch.func and "
    "forward-mode derivatives need an explicit scheme such as dopri5"
)
SHORTEST = 2.0**-8
"""The shortest part of a Newton step that is tried."""
SLOW = 0.5
"""The rate from which on a residual that is small enough is taken to have come down to rounding."""


class NoConvergence(SchemenetError):
    """An implicit step was not solved to its tolerance within its limits."""


def plain(y: Tensor) -> Tensor:
    """The numbers of y in a tensor that autograd may watch, without its graph."""
    return y.clone() if y.is_inference() else y.detach()


@dataclass(frozen=True)
class Solver:
    """Solves z = a f(node, base + z) for the increment z of a stage.

    With a ``tolerance`` the residual is brought below that part of the largest of base, base + z and a f. Without one
    it is brought down to rounding, so that errors do not add up over many small steps; where rounding in f keeps it
    above that, eps^(2/3) is enough, eps that of the precision that f computes in (or of ``coarsest``, if some parts of
    the state have less). ``iterations`` are Newton's, each of ``krylov`` vectors.
    """

    tolerance: float | None = None
    iterations: int = 20
    krylov: int = 40
    coarsest: torch.dtype | None = None

    def solve(self, f: VectorField, node: Node, base: Tensor, a: float) -> Tensor:
        """The increment, differentiable in base and in what f depends on.

        Evaluations on the way are trials; the last one, at the solution, is made under the node itself and carries
        the gradient. Raises NoConvergence.
        """
        with torch.inference_mode(False), torch.no_grad():
            z = self._find(f, node, plain(base), a)
        return self.attach(f, node, base, a, z)

    def attach(self, f: VectorField, node: Node, base: Tensor, a: float, z: Tensor) -> Tensor:
        """A solved increment made differentiable, where anything needs a gradient, by one evaluation there."""
        y = plain(base) + z
        if not torch.is_grad_enabled():
            refuse_tangents(f(node, y))
            return z
        point = _Cut.apply(y.requires_grad_())
        value = f(node, point)
        refuse_tangents(value)
        if not base.requires_grad and not leaves([value], [point]):
            return z
        return _Solved.apply(base, (value * a).to(z.dtype), z, _Pulled(self, node, a, point, value))

    def _find(self, f: VectorField, node: Node, base: Tensor, a: float) -> Tensor:
        trial = node._replace(trial=True)
        if base.is_meta:  # no numbers to converge: one trial stands for all of them
            return (f(trial, base) * a).to(base.dtype)
        here = _Iterate(f, trial, base, a, torch.zeros_like(base))
        forcing = FORCING
        for _ in range(self.iterations):
            goal, enough = self._goals(here.rounding, here.scale, here.precision)
            if here.size <= goal:
                return here.z
            towards = here.newton_step(max(forcing, 0.5 * goal / here.size), self.krylov)
            part = 1.0
            there = _Iterate(f, trial, base, a, here.z + towards)
            if here.size <= enough and not there.size <= SLOW * here.size:
                return there.z if there.size < here.size else here.z
            while not there.size <= (1 - 1e-4 * part) * here.size:
                part /= 2
                if part < SHORTEST or not np.isfinite(here.size):
                    raise self._failure(node, a, here)
                there = _Iterate(f, trial, base, a, here.z + part * towards)
            forcing = min(FORCING, (there.size / here.size) ** 2)  # what Newton's next step may gain, and no more
            here = there
        if here.size <= self._goals(here.rounding, here.scale, here.precision)[1]:
            return here.z
        raise self._failure(node, a, here)

    def _goals(self, rounding: float, scale: float, precision: torch.dtype) -> tuple[float, float]:
        """What a residual is brought to, and what is enough where it falls no more."""
        if self.tolerance is not None:
            return self.tolerance * scale, self.tolerance * scale
        return rounding, max(rounding, self._enough(precision) * scale)

    def _enough(self, precision: torch.dtype) -> float:
        eps = max(torch.finfo(dtype).eps for dtype in (precision, self.coarsest or precision))
        return eps ** (2 / 3) if self.tolerance is None else self.tolerance

    def _failure(self, node: Node, a: float, here: _Iterate) -> NoConvergence:
        where = f"implicit step {node.step} (t = {node.t:g}, stage {node.stage})"
        if not np.isfinite(here.size):
            return NoConvergence(f"{where}: f returned NaN or Inf there, or the state is not finite")
        return NoConvergence(
            f"{where}: y = base + {a:g} f(y) was not solved: relative residual {here.size / here.scale:.1g}, "
            f"expected {self._enough(here.precision):.1g}, after at most {self.iterations} Newton iterations of "
            f"{self.krylov} Krylov vectors; take smaller steps (more scheme.substeps or grid.steps), or raise "
            "scheme.iterations, scheme.krylov or scheme.tolerance"
        )


class _Iterate:
    """One z of Newton's iteration: the residual a f(base + z) - z, and products with I - a f'.

    ``rounding`` is the size of the errors that rounding makes in what the residual is made of.
    """

    def __init__(self, f: VectorField, node: Node, base: Tensor, a: float, z: Tensor) -> None:
        self.a, self.z = a, z
        y = base + z
        self.linear = Linearised(f, node, y)
        value = self.linear.value
        self.precision = value.dtype
        self.residual = axpy(-z, value, a)
        sizes = torch.stack([part.norm().to(z.dtype) for part in (self.residual, base, y, z, value)]).tolist()
        self.size, of_base, of_y, of_z, of_value = sizes
        self.scale = max(of_base, of_y, abs(a) * of_value)
        self.rounding = torch.finfo(z.dtype).eps * of_z + torch.finfo(value.dtype).eps * abs(a) * of_value

    def newton_step(self, tolerance: float, dimension: int) -> Tensor:
        """d with (I - a f') d near the residual, relatively; by a matrix, or by at most so many vectors of GMRES."""
        if (matrix := jacobian_matrix(self.linear.transposed_times, self.residual)) is not None:
            return JacobianMatrix(matrix).solve(self.residual, self.a)
        return gmres(lambda v: axpy(v, self.linear.times(v), -self.a), self.residual, tolerance, dimension)


class _Cut(torch.autograd.Function):
    """The identity, through which no gradient passes."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y[...]

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
        if (matrix := jacobian_matrix(self._pull, gradient)) is not None:
            w = JacobianMatrix(matrix.mT).solve(gradient, self.a)
            if bool(w.isfinite().all()):  # a singular matrix is left to GMRES, which tells what it cannot solve
                return w

        def product(w: Tensor) -> Tensor:
            return axpy(w, self._pull(w), -self.a)

        w, remaining = torch.zeros_like(gradient), gradient
        initial = before = float(gradient.norm())
        eps = torch.finfo(gradient.dtype).eps + torch.finfo(self.value.dtype).eps
        enough = 0.0
        for _ in range(self.solver.iterations):
            rounding = 10 * eps * max(initial, float(w.norm()))  # of a sum over all vectors
            goal, enough = self.solver._goals(rounding, initial, self.value.dtype)
            size = float(remaining.norm())
            if not size > goal or (size <= enough and SLOW * before < size < before):
                return w
            w = w + gmres(product, remaining, 0.5 * goal / size, self.solver.krylov)
            remaining, before = gradient - product(w), size
        if float(remaining.norm()) <= enough:
            return w
        raise NoConvergence(
            f"implicit step {self.node.step} (stage {self.node.stage}): the gradient's linear system was not solved: "
            f"relative residual {float(remaining.norm()) / initial:.1g}, expected "
            f"{self.solver._enough(self.value.dtype):.1g}; raise "
            "scheme.krylov or scheme.tolerance, or take smaller steps (more scheme.substeps or grid.steps)"
        )

    def _pull(self, w: Tensor) -> Tensor:
        """f'^T w."""
        count_products()
        (pulled,) = torch.autograd.grad(
            self.value, self.point, w.to(self.value.dtype), retain_graph=True, allow_unused=True
        )
        return torch.zeros_like(w) if pulled is None else pulled


class _Solved(torch.autograd.Function):
    """The increment z, given base and the graph of a f(y) at the solution."""

    @staticmethod
    def forward(ctx: Any, base: Tensor, image: Tensor, z: Tensor, pulled: _Pulled) -> Tensor:
        ctx.pulled = pulled
        return z[...]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        if torch.is_grad_enabled():
            raise SchemenetError(
                "an implicit scheme gives first derivatives only (create_graph=True asks for more); second derivatives "
                "need an explicit one"
            )
        w = ctx.pulled.solve(gradients[0])
        # dy = (I - a f')^-1 (dbase + dimage), and z = y - base.
        return w - gradients[0] if ctx.needs_input_grad[0] else None, w, None, None


def refuse_transforms(y: State) -> None:
    """Raises under a transform of torch.func, whose tensors have no numbers for the host to read, and for tangents."""
    if torch._C._are_functorch_transforms_active():
        raise SchemenetError(NO_TRANSFORMS)
    refuse_tangents(*flatten(y)[0])


def refuse_tangents(*tensors: Tensor) -> None:
    """Raises under torch's forward-mode derivatives: a solve would lose them."""
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise SchemenetError(NO_TRANSFORMS)


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
